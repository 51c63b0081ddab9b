// Images as bytes: fields in order, lengths first. The cache has checked the checksum; lengths are checked here again.
#include "codegen/image.h"

#include <cstring>
#include <span>

namespace quern {
namespace {

struct Writer {
  std::vector<uint8_t> out;
  void raw(const void* data, size_t n) {
    const uint8_t* p = static_cast<const uint8_t*>(data);
    out.insert(out.end(), p, p + n);
  }
  template <class T>
  void number(T value) { raw(&value, sizeof value); }
  template <class C>
  void bytes(const C& value) {
    number<uint64_t>(value.size());
    raw(value.data(), value.size());
  }
  template <class T>
  void records(const std::vector<T>& value) { bytes(std::span(reinterpret_cast<const uint8_t*>(value.data()), value.size() * sizeof(T))); }
};

struct Reader {
  const std::vector<uint8_t>& in;
  size_t at = 0;
  bool good = true;
  template <class T>
  void number(T& value) {
    good = good && in.size() - at >= sizeof value;
    if (!good) return;
    std::memcpy(&value, in.data() + at, sizeof value);
    at += sizeof value;
  }
  template <class C>
  void bytes(C& value) {
    uint64_t n = 0;
    number(n);
    good = good && in.size() - at >= n;
    if (!good) return;
    value.assign(in.begin() + static_cast<int64_t>(at), in.begin() + static_cast<int64_t>(at + n));
    at += n;
  }
  template <class T>
  void records(std::vector<T>& value) {
    std::vector<uint8_t> raw;
    bytes(raw);
    good = good && raw.size() % sizeof(T) == 0;
    if (!good) return;
    value.resize(raw.size() / sizeof(T));
    if (!raw.empty()) std::memcpy(value.data(), raw.data(), raw.size());
  }
};

template <class Image, class Stream>
void fields(Image& image, Stream& s) {
  s.bytes(image.name);
  s.bytes(image.code);
  s.number(image.entry);
  s.number(image.grid);
  s.number(image.symbol);
  s.number(image.tile);
  s.number(image.others);
  s.number(image.bound);
  s.number(image.threads);
  s.number(image.shared_bytes);
  s.number(image.resident);
  s.number(image.cluster);
  s.number(image.waits);
  s.number(image.alone);
  s.records(image.maps);
  s.number(image.operands);
  s.number(image.outputs);
  s.number(image.scratch_bytes);
  s.bytes(image.source);
}

}  // namespace

std::vector<uint8_t> save_image(const KernelImage& image) {
  Writer w;
  fields(image, w);
  return std::move(w.out);
}

std::optional<KernelImage> load_image(const std::vector<uint8_t>& bytes) {
  Reader r{bytes};
  KernelImage image;
  fields(image, r);
  if (!r.good || r.at != bytes.size()) return std::nullopt;
  return image;
}

}  // namespace quern
