// Quasi-affine index expressions: what a view of a tensor means, and where a tile lies in a buffer.
// An Index is built from constants, axes and + * // % by constants; the builders simplify with the axes' ranges,
// so that a row-major reshape that merges and splits the same axes comes back to the plain axes.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>

#include "ir/support/arith.h"

namespace quern {

class Index {
 public:
  enum class Kind { constant, axis, add, mul, div, mod };

  Index(int64_t value = 0);                             // a constant
  static Index axis(int id, int64_t extent);            // 0 <= axis < extent

  friend Index operator+(const Index& a, const Index& b);
  friend Index operator*(const Index& a, int64_t factor);
  friend Index operator-(const Index& a, const Index& b) { return a + b * -1; }
  friend Index floor_div(const Index& a, int64_t divisor);   // divisor > 0
  friend Index floor_mod(const Index& a, int64_t divisor);

  Kind kind() const { return node_->kind; }
  int64_t value() const { return node_->value; }        // constant's value, mul/div/mod's right side, axis's id
  Index left() const { return Index(node_->left); }
  Index right() const { return Index(node_->right); }   // add only
  int64_t low() const { return node_->low; }            // least and greatest value over all axes' ranges
  int64_t high() const { return node_->high; }
  bool is_constant() const { return kind() == Kind::constant; }

  int64_t evaluate(const std::function<int64_t(int axis)>& axis_value) const;
  Index substitute(const std::function<Index(int axis, int64_t extent)>& replacement) const;
  void collect_axes(std::set<int>& out) const;
  bool uses(int axis) const;
  /// The factor of `axis` when the expression is linear in it (0 when absent); nothing inside // or %.
  std::optional<int64_t> stride(int axis) const;
  std::string text(const std::function<std::string(int axis)>& name) const;
  bool operator==(const Index& other) const;

 private:
  friend struct IndexBuilder;
  struct Node {
    Kind kind;
    int64_t value, low, high;
    std::shared_ptr<const Node> left, right;
  };
  explicit Index(std::shared_ptr<const Node> node) : node_(std::move(node)) {}
  static Index make(Kind kind, int64_t value, int64_t low, int64_t high, const Index* left = nullptr, const Index* right = nullptr);
  std::shared_ptr<const Node> node_;
};

Index operator+(const Index& a, const Index& b);
Index operator*(const Index& a, int64_t factor);
Index floor_div(const Index& a, int64_t divisor);
Index floor_mod(const Index& a, int64_t divisor);

/// Row-major position of `index` in `shape`, and its inverse.
Index flatten(std::span<const Index> index, std::span<const int64_t> shape);
std::vector<Index> unflatten(const Index& position, std::span<const int64_t> shape);

}  // namespace quern
