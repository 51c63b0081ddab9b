// See rnn.h.
#include "frontend/rnn.h"

#include <fmt/format.h>

#include "frontend/nn.h"

namespace quern {
namespace {

// Of all shapes: what a layer of `gates` parts wants.
void check(const char* name, const Tensor& x, const std::vector<std::pair<const char*, Tensor>>& carries, const Tensor& wx, const Tensor& wh, const std::vector<Tensor>& biases, int64_t gates, const Where& where) {
  const auto fail = [&](const std::string& what, const char* label, const Tensor& t, const std::string& help) { throw error_at(Code::shapes_differ, fmt::format("{}: {}", name, what), where, {{"x", x}, {label, t}}).with_help(help); };
  if (x.rank() != 3) fail(fmt::format("x is {}, wanted is [steps, batch, in]", to_string(x.type())), "x", x, "transpose or reshape it");
  const Tensor& h = carries[0].second;
  if (h.rank() != 2 || h.shape()[0] != x.shape()[1]) fail(fmt::format("h is {}, wanted is [{}, hidden]", to_string(h.type()), x.shape()[1]), "h", h, "give it one row for each row of x");
  const int64_t hidden = h.shape()[1], out = gates * hidden;
  for (const auto& [label, c] : carries)
    if (c.shape() != h.shape()) fail(fmt::format("{} is {}, h is {}", label, to_string(c.type()), to_string(h.type())), label, c, "both have the shape [batch, hidden]");
  if (wx.shape() != Shape{x.shape()[2], out}) fail(fmt::format("wx is {}, wanted is [{}, {}]", to_string(wx.type()), x.shape()[2], out), "wx", wx, fmt::format("its columns are the {} parts of {} hidden units", gates, hidden));
  if (wh.shape() != Shape{hidden, out}) fail(fmt::format("wh is {}, wanted is [{}, {}]", to_string(wh.type()), hidden, out), "wh", wh, fmt::format("its columns are the {} parts of {} hidden units", gates, hidden));
  for (const Tensor& b : biases)
    if (b.shape() != Shape{out}) fail(fmt::format("a bias is {}, wanted is [{}]", to_string(b.type()), out), "bias", b, "one value for each column of the weights");
}
Tensor gate(const Tensor& all, int64_t i, int64_t hidden, const Where& w) { return slice(all, -1, i * hidden, (i + 1) * hidden, 1, w); }

}  // namespace

Recurrent lstm(const Tensor& x, const Tensor& h, const Tensor& c, const Tensor& wx, const Tensor& wh, const Tensor& b, Direction direction, Where where) {
  check("lstm", x, {{"h", h}, {"c", c}}, wx, wh, {b}, 4, where);
  const int64_t n = h.shape()[1];
  const Scan r = scan([&](const std::vector<Tensor>& at, const std::vector<Tensor>& in) {
    const auto o = [&](const Tensor& t) { return Operand(t, where); };
    const Tensor all = o(o(matmul(in[0], wx, where)) + o(b)) + o(matmul(at[0], wh, where));
    const Tensor c1 = o(o(sigmoid(gate(all, 1, n, where), where)) * o(at[1])) + o(o(sigmoid(gate(all, 0, n, where), where)) * o(tanh(gate(all, 2, n, where), where)));
    const Tensor h1 = o(sigmoid(gate(all, 3, n, where), where)) * o(tanh(c1, where));
    return ScanStep{{h1, c1}, {h1}};
  }, {h, c}, {x}, -1, direction, where);
  return {r.stacked[0], r.carries[0], r.carries[1]};
}

Recurrent gru(const Tensor& x, const Tensor& h, const Tensor& wx, const Tensor& wh, const Tensor& bx, const Tensor& bh, Direction direction, Where where) {
  check("gru", x, {{"h", h}}, wx, wh, {bx, bh}, 3, where);
  const int64_t n = h.shape()[1];
  const Scan r = scan([&](const std::vector<Tensor>& at, const std::vector<Tensor>& in) {
    const auto o = [&](const Tensor& t) { return Operand(t, where); };
    const Tensor of_x = o(matmul(in[0], wx, where)) + o(bx), of_h = o(matmul(at[0], wh, where)) + o(bh);
    const auto both = [&](int64_t i) { return sigmoid(o(gate(of_x, i, n, where)) + o(gate(of_h, i, n, where)), where); };
    const Tensor z = both(1), fresh = tanh(o(gate(of_x, 2, n, where)) + o(o(both(0)) * o(gate(of_h, 2, n, where))), where);
    const Tensor h1 = o(fresh) + o(o(z) * o(o(at[0]) - o(fresh)));
    return ScanStep{{h1}, {h1}};
  }, {h}, {x}, -1, direction, where);
  return {r.stacked[0], r.carries[0], {}};
}

Recurrent elman(const Tensor& x, const Tensor& h, const Tensor& wx, const Tensor& wh, const Tensor& b, Direction direction, Where where) {
  check("elman", x, {{"h", h}}, wx, wh, {b}, 1, where);
  const Scan r = scan([&](const std::vector<Tensor>& at, const std::vector<Tensor>& in) {
    const auto o = [&](const Tensor& t) { return Operand(t, where); };
    const Tensor h1 = tanh(o(o(matmul(in[0], wx, where)) + o(b)) + o(matmul(at[0], wh, where)), where);
    return ScanStep{{h1}, {h1}};
  }, {h}, {x}, -1, direction, where);
  return {r.stacked[0], r.carries[0], {}};
}

}  // namespace quern
