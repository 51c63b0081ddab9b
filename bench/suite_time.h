// How a limited time is shared among the suite's cases: each may take its part of what is left, by weight, so that what one case leaves
// the others have, and what one takes too much is taken from all of them alike. Without a limit all have time without end.
#pragma once
#include <chrono>
#include <limits>
#include <numeric>
#include <vector>

namespace quern::bench {

class Shares {
 public:
  /// `limit` in seconds from now on; 0: none.
  Shares(double limit, std::vector<double> weights) : limit_(limit > 0 ? limit : std::numeric_limits<double>::infinity()), weights_(std::move(weights)) {}

  /// The next case's turn.
  void next() {
    const double rest = std::accumulate(weights_.begin() + static_cast<std::ptrdiff_t>(at_), weights_.end(), 0.0);
    from_ = elapsed();
    share_ = (limit_ - from_) * weights_[at_++] / rest;
  }
  bool limited() const { return share_ < std::numeric_limits<double>::infinity(); }
  /// Seconds of the case's share, how many of them are left (fewer than none where it took too much), and until the end of all.
  double share() const { return share_; }
  double left() const { return limited() ? from_ + share_ - elapsed() : share_; }
  double until_end() const { return limit_ - elapsed(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  double limit_, from_ = 0, share_ = std::numeric_limits<double>::infinity();
  std::vector<double> weights_;
  size_t at_ = 0;

  double elapsed() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }
};

}  // namespace quern::bench
