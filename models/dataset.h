// Labelled images for classification, from what ships with the project or from files.
#pragma once
#include <string>
#include <vector>

#include "ir/host_tensor.h"

namespace quern {

struct Dataset {
  std::string name;
  int64_t features = 0, classes = 10;
  std::vector<float> train_x, test_x;      // row-major, scaled to [0, 1]
  std::vector<int32_t> train_y, test_y;
  int64_t train_size() const { return static_cast<int64_t>(train_y.size()); }
  int64_t test_size() const { return static_cast<int64_t>(test_y.size()); }
};

/// The digits that ship with Quern: a fixed shuffle (seed kSplitSeed), three quarters for training.
constexpr uint32_t kSplitSeed = 17;
Dataset load_digits();
/// MNIST in IDX form, plain or .gz: {train,t10k}-images-idx3-ubyte, {train,t10k}-labels-idx1-ubyte in `directory`.
/// Throws Error(bad_file) naming the file and what is wrong with it.
Dataset load_mnist(const std::string& directory);

/// A permutation of 0 … n-1 from a seed.
std::vector<int64_t> shuffled(int64_t n, uint32_t seed);

/// A whole file, unzipped where it is gzip; at most `limit` bytes.
std::vector<uint8_t> read_file(const std::string& path, int64_t limit);

}  // namespace quern
