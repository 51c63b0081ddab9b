// Protobuf's wire format, as far as ONNX needs it: a cursor over the fields of one message. Files are hostile until they
// are read: every length is checked against the message around it before anything is made of it, messages nest at most
// 64 deep, and what is made of a file (see Ledger) takes at most 64 MiB and four times the file.
// https://protobuf.dev/programming-guides/encoding/
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "ir/support/check.h"

namespace quern::onnx {

/// What the structs made of one file may take, so that a small file cannot ask for a large memory.
class Ledger {
 public:
  Ledger(std::string file, size_t file_bytes) : file_(std::move(file)), left_((int64_t{64} << 20) + 4 * static_cast<int64_t>(file_bytes)) {}
  void charge(size_t bytes);
  const std::string& file() const { return file_; }

 private:
  std::string file_;
  int64_t left_;
};

enum class WireType : uint8_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

/// One message's fields, in order. Asking a field for another type than it has throws Error(bad_onnx).
class Wire {
 public:
  Wire(std::span<const uint8_t> bytes, Ledger& ledger) : Wire(bytes, ledger, 0, 0) {}

  /// Steps to the next field; false at the end.
  bool next();
  uint32_t field() const { return field_; }
  int64_t integer() const;
  float real() const;
  std::span<const uint8_t> bytes() const;
  std::string_view text() const;
  Wire message() const;
  /// A repeated number: one, or many packed into one field.
  template <class F>
  void each_integer(F&& f) const {
    if (type_ != WireType::bytes) return f(integer());
    for (Wire packed = within(); packed.at_ < packed.bytes_.size();) f(static_cast<int64_t>(packed.varint()));
  }
  template <class Number, class F>
  void each_fixed(F&& f) const {
    constexpr WireType kOne = sizeof(Number) == 4 ? WireType::fixed32 : WireType::fixed64;
    if (type_ == kOne) return f(value_as<Number>(value_));
    for (Wire packed = within(); packed.at_ < packed.bytes_.size();) f(value_as<Number>(packed.fixed(sizeof(Number))));
  }
  Ledger& ledger() const { return *ledger_; }
  [[noreturn]] void fail(const std::string& what) const;

 private:
  Wire(std::span<const uint8_t> bytes, Ledger& ledger, size_t offset, int depth) : bytes_(bytes), ledger_(&ledger), offset_(offset), depth_(depth) {}

  std::span<const uint8_t> bytes_;
  Ledger* ledger_;
  size_t offset_;                       // of bytes_ in the file, for messages
  int depth_;
  size_t at_ = 0, start_ = 0;           // behind the field, its first byte
  uint32_t field_ = 0;
  WireType type_ = WireType::varint;
  uint64_t value_ = 0;                  // a number's bits
  std::span<const uint8_t> content_;    // of a field of type bytes

  uint64_t varint();
  uint64_t fixed(size_t size);
  Wire within() const;
  template <class Number>
  static Number value_as(uint64_t bits) {
    Number out;
    __builtin_memcpy(&out, &bits, sizeof out);   // little endian, as everything that Quern runs on
    return out;
  }
};

}  // namespace quern::onnx
