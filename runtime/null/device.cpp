// See device.h. Memory is real host memory, filled with zeros, so that downloads are defined.
#include "runtime/null/device.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include <fmt/format.h>

#include "runtime/pool.h"

namespace quern {
namespace {

class NullImage : public LoadedImage {};

class NullDevice : public Device {
 public:
  explicit NullDevice(std::string* transcript)
      : transcript_(transcript), pool_([](int64_t n) { return std::calloc(1, static_cast<size_t>(n)); }, [](void* p) { std::free(p); }) {}

  std::string name() const override { return "null"; }
  Target target() const override { return parse_target("cpu:avx2"); }
  DevicePtr alloc(int64_t bytes) override {
    const DevicePtr p = pool_.alloc(bytes);
    names_[p] = fmt::format("m{}", names_.size());
    say(fmt::format("alloc {} {}", names_[p], bytes));
    return p;
  }
  void free(DevicePtr ptr) override {
    say("free " + spell(ptr));
    pool_.free(ptr);
  }
  PoolStatistics statistics() const override { return pool_.statistics(); }
  void upload(DevicePtr to, const void*, int64_t bytes) override { say(fmt::format("upload {} {}", spell(to), bytes)); }
  void download(void* to, DevicePtr from, int64_t bytes) override {
    say(fmt::format("download {} {}", spell(from), bytes));
    if (bytes > 0) std::memset(to, 0, static_cast<size_t>(bytes));   // an empty tensor's bytes are null
  }
  void copy(DevicePtr to, DevicePtr from, int64_t bytes) override { say(fmt::format("copy {} {} {}", spell(to), spell(from), bytes)); }
  std::unique_ptr<LoadedImage> load(const KernelImage& image) override {
    say(fmt::format("load {} {} bytes", image.name, image.code.size()));
    return std::make_unique<NullImage>();
  }
  void launch(const LoadedImage&, const KernelImage& kernel, const std::vector<MemoryRange>& operands, int64_t size) override {
    std::string line = fmt::format("launch {} grid {}", kernel.name, kernel.grid_at(size));
    for (const MemoryRange& o : operands) line += " " + spell(o.ptr);
    say(line);
  }
  void repeat_while(DevicePtr flag, const std::function<void()>& body) override {
    say("while " + spell(flag));
    body();
    say("end");
  }
  void branch(DevicePtr flag, const std::function<void()>& yes, const std::function<void()>& no) override {
    say("if " + spell(flag));
    yes();
    say("else");
    no();
    say("end");
  }
  void synchronize() override {}

 private:
  std::string* transcript_;
  Pool pool_;
  std::map<DevicePtr, std::string> names_;

  // Blocks by their name, places inside them with their offset: no address appears.
  std::string spell(DevicePtr p) const {
    auto it = names_.upper_bound(p);
    if (it == names_.begin()) return "?";
    --it;
    const auto offset = static_cast<char*>(p) - static_cast<char*>(it->first);
    return offset ? fmt::format("{}+{}", it->second, offset) : it->second;
  }
  void say(const std::string& line) {
    if (transcript_) *transcript_ += line + "\n";
    else std::fprintf(stderr, "%s\n", line.c_str());
  }
};

}  // namespace

std::unique_ptr<Device> open_null_device(std::string* transcript) { return std::make_unique<NullDevice>(transcript); }

}  // namespace quern
