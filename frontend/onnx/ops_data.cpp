// ONNX ops whose result's shape is the data's: NonZero, Unique, NonMaxSuppression. Graphs have static shapes, so their
// inputs must be known when the model is imported; what they select is computed here.
#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "frontend/onnx/call.h"

namespace quern::onnx {
namespace {

void import_non_zero(Call& c) {
  const HostTensor x = c.known(c.in(0), "X, which decides how many places there are,");
  if (x.shape.empty()) c.unsupported("of a scalar");
  std::vector<int64_t> found;
  for (int64_t i = 0; i < x.size(); ++i)
    if (x.get(i).truthy()) found.push_back(i);
  const int64_t n = static_cast<int64_t>(found.size()), rank = static_cast<int64_t>(x.shape.size());
  const Shape strides = row_major(x.shape);
  HostTensor out(DType::i64, {rank, n});
  for (size_t d = 0; d < strides.size(); ++d)
    for (int64_t k = 0; k < n; ++k) out.set(static_cast<int64_t>(d) * n + k, Scalar::of_int(DType::i64, found[static_cast<size_t>(k)] / strides[d] % x.shape[d]));
  c.out(c.constant(out));
}

// -1, 0, 1; NaN is the greatest and equals itself, as NumPy has it.
int order(const Scalar& a, const Scalar& b) {
  if (!is_float(a.dtype)) return below(a, b) ? -1 : below(b, a);
  if (std::isnan(a.f) || std::isnan(b.f)) return std::isnan(a.f) - std::isnan(b.f);
  return a.f < b.f ? -1 : a.f > b.f;
}
void import_unique(Call& c) {
  Tensor x = c.in(0);
  if (!c.find("axis")) x = flat(x);
  const HostTensor v = c.known(x, "X, which decides how many are unique,");
  const int64_t axis = c.axis(c.integer("axis", 0), x.rank()), n = v.shape.at(static_cast<size_t>(axis));
  const int64_t inner = row_major(v.shape)[static_cast<size_t>(axis)], outer = n && inner ? v.size() / (n * inner) : 0;
  const auto compare = [&](int64_t a, int64_t b) {   // of the slices a and b
    for (int64_t o = 0; o < outer; ++o)
      for (int64_t i = 0; i < inner; ++i)
        if (const int r = order(v.get((o * n + a) * inner + i), v.get((o * n + b) * inner + i))) return r;
    return 0;
  };
  std::vector<int64_t> sorted(static_cast<size_t>(n));
  std::iota(sorted.begin(), sorted.end(), 0);
  std::stable_sort(sorted.begin(), sorted.end(), [&](int64_t a, int64_t b) { return compare(a, b) < 0; });
  struct Group { int64_t first; std::vector<int64_t> members; };   // of equal slices
  std::vector<Group> groups;
  for (int64_t i : sorted) {
    if (groups.empty() || compare(groups.back().first, i)) groups.push_back({i, {}});
    groups.back().members.push_back(i);
  }
  if (!c.flag("sorted", true)) std::sort(groups.begin(), groups.end(), [](const Group& a, const Group& b) { return a.first < b.first; });
  Shape first, counts, inverse(static_cast<size_t>(n));
  for (const Group& g : groups) {
    for (int64_t i : g.members) inverse[static_cast<size_t>(i)] = static_cast<int64_t>(first.size());
    first.push_back(g.first);
    counts.push_back(static_cast<int64_t>(g.members.size()));
  }
  const Tensor index = c.integers_tensor(first);
  c.out(take(x, index, axis));
  c.out(index, 1);
  c.out(c.integers_tensor(inverse), 2);
  c.out(c.integers_tensor(counts), 3);
}

struct Box { double top, left, bottom, right; };
double overlap(const Box& a, const Box& b) {   // intersection over union
  const double high = std::min(a.bottom, b.bottom) - std::max(a.top, b.top), wide = std::min(a.right, b.right) - std::max(a.left, b.left);
  const double both = std::max(0.0, high) * std::max(0.0, wide), all = (a.bottom - a.top) * (a.right - a.left) + (b.bottom - b.top) * (b.right - b.left) - both;
  return both > 0 ? both / all : 0;
}
// By falling score, each box that does not overlap a chosen one too much.
void import_suppression(Call& c) {
  const HostTensor boxes = c.known(c.in(0), "boxes, which decide how many are selected,"), scores = c.known(c.in(1), "scores, which decide how many are selected,");
  const int64_t most = c.has(2) ? c.known_integer(2, "max_output_boxes_per_class") : 0;
  const double limit = c.has(3) ? c.known_number(c.in(3), "iou_threshold") : 0, least = c.has(4) ? c.known_number(c.in(4), "score_threshold") : -INFINITY;
  c.want(boxes.shape.size() == 3 && boxes.shape[2] == 4 && scores.shape.size() == 3 && scores.shape[0] == boxes.shape[0] && scores.shape[2] == boxes.shape[1], "boxes [batch, n, 4] and scores [batch, classes, n]");
  const int64_t batch = scores.shape[0], classes = scores.shape[1], n = scores.shape[2];
  std::vector<Box> all;
  for (int64_t i = 0; i < batch * n; ++i) {
    const double a = boxes.at(4 * i), b = boxes.at(4 * i + 1), h = boxes.at(4 * i + 2), w = boxes.at(4 * i + 3);
    if (c.flag("center_point_box")) all.push_back({b - w / 2, a - h / 2, b + w / 2, a + h / 2});   // x, y, width, height
    else all.push_back({std::min(a, h), std::min(b, w), std::max(a, h), std::max(b, w)});
  }
  std::vector<double> selected;
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t k = 0; k < classes; ++k) {
      const auto score = [&](int64_t i) { return scores.at((b * classes + k) * n + i); };
      const auto box = [&](int64_t i) { return all[static_cast<size_t>(b * n + i)]; };
      std::vector<int64_t> candidates, chosen;
      for (int64_t i = 0; i < n; ++i)
        if (score(i) > least) candidates.push_back(i);
      std::stable_sort(candidates.begin(), candidates.end(), [&](int64_t i, int64_t j) { return score(i) > score(j); });
      for (int64_t i : candidates) {
        if (static_cast<int64_t>(chosen.size()) >= most) break;
        if (std::any_of(chosen.begin(), chosen.end(), [&](int64_t j) { return overlap(box(i), box(j)) > limit; })) continue;
        chosen.push_back(i);
        for (int64_t v : {b, k, i}) selected.push_back(static_cast<double>(v));
      }
    }
  c.out(c.constant(HostTensor::from(DType::i64, {static_cast<int64_t>(selected.size()) / 3, 3}, selected)));
}

}  // namespace

std::vector<OpEntry> data_ops() { return {{"NonMaxSuppression", import_suppression}, {"NonZero", import_non_zero}, {"Unique", import_unique}}; }

}  // namespace quern::onnx
