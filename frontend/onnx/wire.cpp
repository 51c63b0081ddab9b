// See wire.h.
#include "frontend/onnx/wire.h"

#include <fmt/format.h>

namespace quern::onnx {

static constexpr int kMaxDepth = 64;

void Ledger::charge(size_t bytes) {
  left_ -= static_cast<int64_t>(bytes);
  if (left_ < 0) throw Error(Code::bad_onnx, fmt::format("{}: its parts take more than 64 MiB and four times the file", file_)).with_help("store large tensors as raw_data or as external data, as exporters do");
}

void Wire::fail(const std::string& what) const {
  throw Error(Code::bad_onnx, fmt::format("{}: at byte {}: {}", ledger_->file(), offset_ + start_, what)).with_help("is it a whole .onnx file? python3 -c \"import onnx; onnx.checker.check_model('m.onnx')\" says more");
}

uint64_t Wire::varint() {
  uint64_t out = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (at_ == bytes_.size()) fail("a number that does not end");
    const uint8_t byte = bytes_[at_++];
    if (shift == 63 && byte > 1) fail("a number of more than 64 bits");
    out |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return out;
  }
  fail("a number of more than ten bytes");
}

uint64_t Wire::fixed(size_t size) {
  if (bytes_.size() - at_ < size) fail(fmt::format("a number of {} bytes that does not end", size));
  uint64_t out = 0;
  for (size_t i = 0; i < size; ++i) out |= static_cast<uint64_t>(bytes_[at_ + i]) << (8 * i);
  at_ += size;
  return out;
}

bool Wire::next() {
  start_ = at_;
  if (at_ == bytes_.size()) return false;
  const uint64_t key = varint();
  if (key >> 3 == 0 || key >> 3 >= (uint64_t{1} << 29)) fail("a field number outside 1 to 2^29");
  field_ = static_cast<uint32_t>(key >> 3);
  type_ = static_cast<WireType>(key & 7);
  content_ = {};
  switch (type_) {
    case WireType::varint: value_ = varint(); break;
    case WireType::fixed64: value_ = fixed(8); break;
    case WireType::fixed32: value_ = fixed(4); break;
    case WireType::bytes: {
      const uint64_t length = varint();
      if (length > bytes_.size() - at_) fail(fmt::format("field {} has {} bytes, the message around it {} more", field_, length, bytes_.size() - at_));
      content_ = bytes_.subspan(at_, static_cast<size_t>(length));
      at_ += static_cast<size_t>(length);
      break;
    }
    default: fail(fmt::format("wire type {}, which ONNX does not use", key & 7));
  }
  return true;
}

int64_t Wire::integer() const {
  if (type_ != WireType::varint) fail(fmt::format("field {} is not an integer", field_));
  return static_cast<int64_t>(value_);
}
float Wire::real() const {
  if (type_ != WireType::fixed32) fail(fmt::format("field {} is not a float", field_));
  return value_as<float>(value_);
}
std::span<const uint8_t> Wire::bytes() const {
  if (type_ != WireType::bytes) fail(fmt::format("field {} is not a string or message", field_));
  return content_;
}
std::string_view Wire::text() const {
  const auto b = bytes();
  return {reinterpret_cast<const char*>(b.data()), b.size()};
}
Wire Wire::within() const {
  const auto b = bytes();
  return Wire(b, *ledger_, offset_ + (at_ - b.size()), depth_);
}
Wire Wire::message() const {
  if (depth_ + 1 > kMaxDepth) fail(fmt::format("messages nested more than {} deep", kMaxDepth));
  Wire out = within();
  ++out.depth_;
  return out;
}

}  // namespace quern::onnx
