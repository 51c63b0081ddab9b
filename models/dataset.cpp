// See dataset.h. Files are read whole, sizes checked before anything is believed.
#include "models/dataset.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include <unistd.h>

#include <fmt/format.h>

#include "frontend/zip.h"
#include "ir/support/file.h"

// The digits travel inside the binary.
asm(R"(
  .section .rodata
  .global quern_digits_begin
  .global quern_digits_end
quern_digits_begin:
  .incbin ")" QN_DIGITS R"("
quern_digits_end:
  .previous
)");
extern "C" const unsigned char quern_digits_begin[], quern_digits_end[];

namespace quern {

std::vector<int64_t> shuffled(int64_t n, uint32_t seed) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = n - 1; i > 0; --i)
    std::swap(order[static_cast<size_t>(i)], order[philox(seed, 0x5fu, static_cast<uint64_t>(i)) % static_cast<uint64_t>(i + 1)]);
  return order;
}

std::vector<uint8_t> read_file(const std::string& path, int64_t limit) {
  std::vector<uint8_t> out = read_bytes(path, limit);
  if (out.size() > 2 && out[0] == 0x1f && out[1] == 0x8b) return gunzip(out, limit, path);
  return out;
}

Dataset load_digits() {
  const std::vector<uint8_t> text = gunzip({quern_digits_begin, quern_digits_end}, 1 << 22, "digits");
  std::vector<int> numbers;
  int value = 0;
  bool open = false;
  for (uint8_t c : text) {
    if (c >= '0' && c <= '9') value = value * 10 + (c - '0'), open = true;
    else if (open) numbers.push_back(value), value = 0, open = false;
  }
  if (open) numbers.push_back(value);
  QN_CHECK(numbers.size() == 1797 * 65, "the digits are whole");
  Dataset d;
  d.name = "digits";
  d.features = 64;
  const std::vector<int64_t> order = shuffled(1797, kSplitSeed);
  for (size_t i = 0; i < order.size(); ++i) {
    const int* row = numbers.data() + order[i] * 65;
    const bool train = i < 1347;
    for (int k = 0; k < 64; ++k) (train ? d.train_x : d.test_x).push_back(static_cast<float>(row[k]) / 16);
    (train ? d.train_y : d.test_y).push_back(row[64]);
  }
  return d;
}

static std::vector<uint8_t> read_idx(const std::string& directory, const std::string& name, uint32_t magic, int64_t item, int64_t& items) {
  std::string path = directory + "/" + name;
  if (::access((path + ".gz").c_str(), F_OK) == 0) path += ".gz";
  std::vector<uint8_t> bytes = read_file(path, 256 << 20);
  const auto word = [&](size_t at) { return uint32_t{bytes[at]} << 24 | uint32_t{bytes[at + 1]} << 16 | uint32_t{bytes[at + 2]} << 8 | bytes[at + 3]; };
  const size_t head = magic == 0x803 ? 16 : 8;
  if (bytes.size() < head || word(0) != magic) throw Error(Code::bad_idx, fmt::format("{}: not an IDX file of the expected kind", path)).with_help(fmt::format("it must begin with {:08x}", magic));
  items = word(4);
  if (magic == 0x803 && (word(8) != 28 || word(12) != 28)) throw Error(Code::bad_idx, fmt::format("{}: images are {}x{}, wanted 28x28", path, word(8), word(12))).with_help("train mlp reads MNIST and sets of its form");
  if (static_cast<int64_t>(bytes.size() - head) != items * item) throw Error(Code::bad_idx, fmt::format("{}: {} bytes of data, the head promises {}", path, bytes.size() - head, items * item)).with_help("fetch the file again");
  if (items == 0) throw Error(Code::bad_idx, fmt::format("{}: holds nothing", path)).with_help("fetch the file again");
  bytes.erase(bytes.begin(), bytes.begin() + static_cast<int64_t>(head));
  return bytes;
}

Dataset load_mnist(const std::string& directory) {
  Dataset d;
  d.name = "mnist";
  d.features = 784;
  const auto part = [&](const std::string& prefix, std::vector<float>& x, std::vector<int32_t>& y) {
    int64_t images = 0, labels = 0;
    const std::vector<uint8_t> pixels = read_idx(directory, prefix + "-images-idx3-ubyte", 0x803, 784, images);
    const std::vector<uint8_t> classes = read_idx(directory, prefix + "-labels-idx1-ubyte", 0x801, 1, labels);
    if (images != labels) throw Error(Code::bad_labels, fmt::format("{}: {} images but {} labels of \"{}\"", directory, images, labels, prefix)).with_help("take both files from one set");
    for (uint8_t p : pixels) x.push_back(static_cast<float>(p) / 255);
    for (uint8_t c : classes) {
      if (c > 9) throw Error(Code::bad_labels, fmt::format("{}: a label above 9", directory)).with_help("labels are the bytes 0 to 9");
      y.push_back(c);
    }
  };
  part("train", d.train_x, d.train_y);
  part("t10k", d.test_x, d.test_y);
  return d;
}

}  // namespace quern
