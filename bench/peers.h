// The libraries beside ours: OpenBLAS in this process (dlopen), PyTorch in a child process (bench/peers/torch_ops.py,
// one JSON value a line each way). A peer that is not there is printed with the reason and left out.
#pragma once
#include <functional>
#include <memory>
#include <optional>

#include "runtime/device.h"
#include "tools/commands.h"

namespace quern::bench {

/// A block of timed runs ends after so much time or so many runs; its first run is not counted.
inline constexpr double kBlockMilliseconds = 20;
inline constexpr int64_t kBlockRuns = 200;

/// A peer made ready for one case.
struct PreparedPeer {
  std::string name;
  double check = 0;   // mean |output| on input set 0; a training step's loss
  /// Microseconds of each run of one block; not synchronised: of each step of many that are enqueued together.
  std::function<std::vector<double>(bool synchronised)> block;
  std::vector<std::vector<double>> samples = {};   // of the suite on a GPU: elements of each output, computed in f64
  double seconds = 0;                              // that it took to make ready
};

class Child;

class Peers {
 public:
  /// `which`: none, openblas (the products), torch (the rest, too). Throws Error(usage) for other names.
  Peers(const std::string& which, const Device& device);
  ~Peers();
  /// {"op": …, "shapes": […]}, as bench/peers/torch_ops.py reads it; `sets` input sets in rotation.
  std::optional<PreparedPeer> prepare(const Json& request, int64_t sets);
  /// Name → version, or the reason why it is missing.
  const Json& found() const { return found_; }

 private:
  void* openblas_ = nullptr;
  std::unique_ptr<Child> torch_;
  Json found_ = Json::object();
};

}  // namespace quern::bench
