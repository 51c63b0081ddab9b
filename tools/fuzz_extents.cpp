// See fuzz_extents.h. Every dim of every value, in bodies too, is a variable; ops unite those that they want equal.
#include "tools/fuzz_extents.h"

#include <algorithm>
#include <numeric>

#include "ir/op.h"
#include "ir/symbol.h"

namespace quern {
namespace {

[[noreturn]] void refuse(const char* what) { throw Error(Code::shapes_differ, what).with_help("take another extent"); }

// Runs of dims of both shapes with equal products, as far as they go: ends in either.
std::vector<std::pair<size_t, size_t>> groups(const Shape& a, const Shape& b) {
  std::vector<std::pair<size_t, size_t>> ends;
  if (count(a) != count(b) || count(a) == 0) return ends;
  for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    int64_t left = a[i++], right = b[j++];
    while (left != right) {
      if (left < right && i < a.size()) left *= a[i++];
      else if (j < b.size()) right *= b[j++];
      else return ends;
    }
    ends.emplace_back(i, j);
  }
  return ends;
}

}  // namespace

int Extents::root(int v) const {
  while (parent_[static_cast<size_t>(v)] != v) v = parent_[static_cast<size_t>(v)];
  return v;
}
void Extents::alike(int a, int b) {
  a = root(a), b = root(b);
  parent_[static_cast<size_t>(a)] = b;
  fixed_[static_cast<size_t>(b)] |= fixed_[static_cast<size_t>(a)];
}
void Extents::alike(const Dims& a, const Dims& b) {
  QN_CHECK(a.size() == b.size(), "alike values have one rank");
  for (size_t d = 0; d < a.size(); ++d) alike(a[d], b[d]);
}
int64_t Extents::extent(int v, const Others& others) const {
  const auto it = others.find(root(v));
  return it == others.end() ? extent_[static_cast<size_t>(v)] : it->second;
}

Extents::Extents(const Graph& graph) : graph_(graph) {
  visit(graph);
  const auto& top = dims_.at(&graph);
  for (const State& s : graph.states) alike(top[static_cast<size_t>(s.input)][0], top[static_cast<size_t>(s.output)][0]);
  std::map<int, Class> found;
  for (int v = 0; v < static_cast<int>(parent_.size()); ++v)
    if (!fixed_[static_cast<size_t>(root(v))]) found.emplace(root(v), Class{root(v), extent_[static_cast<size_t>(v)], {}, false});
  for (size_t i = 0; i < graph.inputs.size(); ++i) {
    const Dims& dims = top[static_cast<size_t>(graph.inputs[i])][0];
    const bool state = graph.state_of(graph.inputs[i]);
    for (size_t d = 0; d < dims.size(); ++d) {
      const auto it = found.find(root(dims[d]));
      if (it == found.end()) continue;
      it->second.inputs.emplace_back(i, d);
      it->second.of_state = it->second.of_state || state;
    }
  }
  for (auto& [id, c] : found) classes_.push_back(std::move(c));
}

void Extents::visit(const Graph& g) {
  if (dims_.count(&g)) return;
  auto& all = dims_[&g];
  for (const Node& n : g.nodes) {
    std::vector<Dims> values;
    for (const Type& t : n.type.results.empty() ? std::vector<Type>{n.type} : n.type.results) {
      Dims dims;
      for (int64_t d : t.shape) {
        dims.push_back(static_cast<int>(parent_.size()));
        parent_.push_back(dims.back());
        extent_.push_back(d);
        fixed_.push_back(n.op == Op::constant);
      }
      values.push_back(std::move(dims));
    }
    all.push_back(std::move(values));
  }
  for (const Node& n : g.nodes)
    for (const auto& body : {n.attrs.body, n.attrs.otherwise})
      if (body) visit(*body);
  for (size_t i = 0; i < g.nodes.size(); ++i) relate(g, g.nodes[i], dims_.at(&g)[i]);
}

void Extents::relate(const Graph& g, const Node& n, const std::vector<Dims>& out) {
  const auto dims = [&](size_t a) -> const Dims& { return dims_.at(&g)[static_cast<size_t>(n.args[a])][0]; };
  const auto shape = [&](size_t a) -> const Shape& { return g.type(n.args[a]).shape; };
  const auto reduced = [&](size_t d) { return std::count(n.attrs.axes.begin(), n.attrs.axes.end(), static_cast<int64_t>(d)) > 0; };
  const auto by_letters = [&](const std::string& letters, const Dims& mine, std::map<char, int>& of) {
    for (size_t d = 0; d < letters.size(); ++d)
      if (const auto [it, fresh] = of.emplace(letters[d], mine[d]); !fresh) alike(it->second, mine[d]);
  };
  if (n.op == Op::result) return alike(dims_.at(&g)[static_cast<size_t>(n.args[0])][static_cast<size_t>(n.attrs.index[0])], out[0]);
  if (means<Body>(n.op)) return relate_body(g, n, out);
  const Dims& mine = out[0];
  if (means<Reduce>(n.op) || n.op == Op::argmax) {
    for (size_t d = 0, o = 0; d < dims(0).size(); ++d)
      if (!reduced(d)) alike(dims(0)[d], mine[o++]);
  } else if (n.op == Op::transpose) {
    for (size_t d = 0; d < mine.size(); ++d) alike(mine[d], dims(0)[static_cast<size_t>(n.attrs.axes[d])]);
  } else if (n.op == Op::broadcast) {
    for (size_t d = 0; d < dims(0).size(); ++d) alike(dims(0)[d], mine[static_cast<size_t>(n.attrs.axes[d])]);
  } else if (n.op == Op::slice) {
    for (size_t d = 0; d < mine.size(); ++d)
      if (n.attrs.start[d] == 0 && n.attrs.stride[d] == 1 && n.attrs.limit[d] == shape(0)[d]) alike(mine[d], dims(0)[d]);
  } else if (n.op == Op::pad) {
    for (size_t d = 0; d < mine.size(); ++d)
      if (n.attrs.low[d] == 0 && n.attrs.high[d] == 0) alike(mine[d], dims(0)[d]);
  } else if (n.op == Op::concat) {
    for (size_t a = 0; a < n.args.size(); ++a)
      for (size_t d = 0; d < mine.size(); ++d)
        if (!reduced(d)) alike(mine[d], dims(a)[d]);
  } else if (n.op == Op::reshape) {
    size_t i = 0, j = 0;
    for (const auto& [to, into] : groups(shape(0), n.type.shape)) {
      if (to - i == 1 && into - j == 1) alike(dims(0)[i], mine[j]);
      i = to, j = into;
    }
  } else if (means<Contract>(n.op) || n.op == Op::convolve) {
    const ContractSpec spec = parse_contract(n.attrs.spec);
    std::map<char, int> of;
    by_letters(spec.lhs, dims(0), of);
    by_letters(spec.rhs, dims(1), of);
    by_letters(spec.out, mine, of);
  } else if (n.op == Op::window) {   // …, positions, places
    const size_t windowed = n.attrs.shape.size(), rank = mine.size();
    for (size_t d = 0; d < rank; ++d)
      if (d < rank - 2 * windowed || d >= rank - windowed) alike(mine[d], dims(0)[d]);
  } else if (means<Take>(n.op) || means<PutAdd>(n.op)) {
    const size_t axis = static_cast<size_t>(n.attrs.axes[0]);
    const Dims& rows = means<Take>(n.op) ? mine : dims(2);
    for (size_t d = 0; d < dims(0).size(); ++d)
      if (d != axis) alike(dims(0)[d], rows[d < axis ? d : d + dims(1).size() - 1]);
    for (size_t d = 0; d < dims(1).size(); ++d) alike(dims(1)[d], rows[axis + d]);
    if (means<PutAdd>(n.op)) alike(dims(0), mine);
  } else {   // elementwise, running sums, …
    for (size_t a = 0; a < n.args.size() && !means<Source>(n.op); ++a) alike(dims(a), mine);
  }
}

void Extents::relate_body(const Graph& g, const Node& n, const std::vector<Dims>& out) {
  const auto dims = [&](size_t a) -> const Dims& { return dims_.at(&g)[static_cast<size_t>(n.args[a])][0]; };
  const auto without = [](Dims d, size_t axis) {
    d.erase(d.begin() + static_cast<int64_t>(axis));
    return d;
  };
  const Graph& body = *n.attrs.body;
  const auto in = [&](const Graph& of, size_t i) -> const Dims& { return dims_.at(&of)[static_cast<size_t>(of.inputs[i])][0]; };
  const auto result = [&](const Graph& of, size_t o) -> const Dims& { return dims_.at(&of)[static_cast<size_t>(of.outputs[o].node)][0]; };
  const size_t inputs = body.inputs.size(), outputs = body.outputs.size();
  if (n.op == Op::cond) {
    for (const auto& of : {n.attrs.body, n.attrs.otherwise}) {
      for (size_t i = 0; i < inputs; ++i) alike(in(*of, i), dims(i + 1));
      for (size_t o = 0; o < outputs; ++o) alike(result(*of, o), out[o]);
    }
  } else if (n.op == Op::call) {
    const bool mapped = n.attrs.transform == Transform::vmap;
    int lanes = -1;
    for (size_t i = 0; i < inputs; ++i) {
      const int64_t axis = !mapped ? -1 : n.attrs.axes.empty() ? 0 : n.attrs.axes[i];
      if (axis < 0) {
        alike(in(body, i), dims(i));
        continue;
      }
      alike(in(body, i), without(dims(i), static_cast<size_t>(axis)));
      if (lanes >= 0) alike(lanes, dims(i)[static_cast<size_t>(axis)]);
      lanes = dims(i)[static_cast<size_t>(axis)];
    }
    for (size_t o = 0; o < outputs; ++o) {
      alike(result(body, o), mapped ? without(out[o], 0) : out[o]);
      if (mapped) alike(out[o][0], lanes);
    }
    const bool forward = n.attrs.transform == Transform::jvp;
    for (size_t k = 0; forward && k < n.attrs.index.size(); ++k) alike(dims(inputs + k), dims(static_cast<size_t>(n.attrs.index[k])));
    for (size_t r = outputs; r < out.size(); ++r) alike(out[r], forward ? out[r - outputs] : dims(static_cast<size_t>(n.attrs.index[r - outputs])));
  } else {
    const size_t carries = static_cast<size_t>(n.attrs.index[0]), scanned = n.op == Op::scan ? static_cast<size_t>(n.attrs.index[1]) : 0;
    int steps = -1;
    const auto step = [&](int dim) {
      if (steps >= 0) alike(steps, dim);
      steps = dim;
    };
    for (size_t i = 0; i < inputs; ++i) {
      const bool slices = i >= carries && i < carries + scanned;
      alike(in(body, i), slices ? without(dims(i), 0) : dims(i));
      if (slices) step(dims(i)[0]);
      if (i < carries) alike(dims(i), result(body, i)), alike(dims(i), out[i]);
    }
    for (size_t o = carries; o < out.size(); ++o) {
      alike(result(body, o), without(out[o], 0));
      step(out[o][0]);
    }
  }
}

Attrs Extents::attrs_of(const Graph& g, NodeId id, const GraphBuilder& b, const std::vector<NodeId>& args, Others& others, bool& again) const {
  const Node& n = g.at(id);
  Attrs attrs = n.attrs;
  const auto& out = dims_.at(&g)[static_cast<size_t>(id)];
  const auto shape = [&](size_t a) -> const Shape& { return b.type(args[a]).shape; };
  if (n.op == Op::broadcast || n.op == Op::iota || n.op == Op::random || n.op == Op::reshape)
    for (size_t d = 0; d < attrs.shape.size(); ++d) attrs.shape[d] = extent(out[0][d], others);
  if (n.op == Op::window || n.op == Op::convolve)
    for (size_t d = 0, first = out[0].size() - attrs.shape.size() * (n.op == Op::window ? 2 : 1); d < attrs.shape.size(); ++d) attrs.shape[d] = extent(out[0][first + d], others);
  if (n.op == Op::reshape) {   // what is not given yet makes up for the rest
    const auto product = [](const Shape& s, size_t from, size_t to) { return std::accumulate(s.begin() + static_cast<int64_t>(from), s.begin() + static_cast<int64_t>(to), int64_t{1}, [](int64_t x, int64_t y) { return checked_mul(x, y); }); };
    size_t i = 0, j = 0;
    for (const auto& [to, into] : groups(g.type(n.args[0]).shape, n.type.shape)) {
      const int64_t want = product(shape(0), i, to), have = product(attrs.shape, j, into);
      for (size_t d = j; d < into && want != have; ++d) {
        const int64_t rest = have / std::max<int64_t>(attrs.shape[d], 1);
        if (others.count(root(out[0][d])) || fixed_[static_cast<size_t>(root(out[0][d]))] || rest == 0 || want % rest) continue;
        others[root(out[0][d])] = want / rest;
        again = true;
        return attrs;
      }
      i = to, j = into;
    }
  }
  if (n.op == Op::slice)
    for (size_t d = 0; d < attrs.limit.size(); ++d) {
      const int64_t before = g.type(n.args[0]).shape[d], now = shape(0)[d];
      const bool whole = attrs.start[d] == 0 && attrs.limit[d] == before;
      if (before == now) continue;
      if (!whole && is_symbolic(now)) refuse("a part of a symbolic extent");
      attrs.limit[d] = whole ? now : std::min(attrs.limit[d], now);
      attrs.start[d] = std::min(attrs.start[d], std::max<int64_t>(attrs.limit[d] - 1, 0));
    }
  if (n.op == Op::scan && n.attrs.index[1] > 0) attrs.limit = {shape(static_cast<size_t>(n.attrs.index[0]))[0]};
  else if (n.op == Op::scan && static_cast<int64_t>(out.size()) > n.attrs.index[0]) attrs.limit = {extent(out[static_cast<size_t>(n.attrs.index[0])][0], others)};
  return attrs;
}

Graph Extents::build(const Graph& g, Others& others, const std::optional<Symbol>& symbol, bool& again) const {
  GraphBuilder b;
  b.symbol(symbol);
  std::vector<NodeId> map;
  const auto& dims = dims_.at(&g);
  for (size_t i = 0; i < g.nodes.size(); ++i) {
    const Node& n = g.nodes[i];
    std::vector<NodeId> args;
    for (NodeId a : n.args) args.push_back(map[static_cast<size_t>(a)]);
    if (n.op == Op::input) {
      Type type = n.type;
      for (size_t d = 0; d < type.shape.size(); ++d) type.shape[d] = extent(dims[i][0][d], others);
      map.push_back(b.input(n.attrs.name, type));
      continue;
    }
    Attrs attrs = attrs_of(g, static_cast<NodeId>(i), b, args, others, again);
    for (auto* body : {&attrs.body, &attrs.otherwise})
      if (*body && !again) *body = std::make_shared<const Graph>(build(**body, others, symbol, again));
    if (again) return {};
    map.push_back(b.add(n.op, args, attrs));
    const Type& type = b.type(map.back());
    const std::vector<Type> types = type.results.empty() ? std::vector<Type>{type} : type.results;
    for (size_t r = 0; r < types.size(); ++r)
      for (size_t d = 0; d < types[r].shape.size(); ++d) {
        if (types[r].shape[d] == extent(dims[i][r][d], others)) continue;
        const int it = root(dims[i][r][d]);
        if (others.count(it) || fixed_[static_cast<size_t>(it)]) refuse("an extent that would be two");
        others[it] = types[r].shape[d];
        again = true;
        return {};
      }
  }
  for (const NamedOutput& o : g.outputs) b.output(o.name, map[static_cast<size_t>(o.node)]);
  for (const State& s : g.states) b.state(s.name, map[static_cast<size_t>(s.input)], map[static_cast<size_t>(s.output)]);
  return b.finish();
}

Graph Extents::with(int id, int64_t extent, const std::optional<Symbol>& symbol) const {
  Others others = {{root(id), extent}};
  for (int rounds = 0; rounds < 40; ++rounds) {   // each finds one more extent that follows
    bool again = false;
    Graph out = build(graph_, others, symbol, again);
    if (!again) return out;
  }
  refuse("extents without end");
}

HostTensor cropped(const HostTensor& value, const Shape& shape) {
  if (value.shape == shape) return value;
  HostTensor out(value.dtype, shape);
  Shape index(shape.size());
  for (int64_t i = 0; i < out.size(); ++i) {
    int64_t from = 0;
    for (size_t d = 0; d < shape.size(); ++d) from = from * value.shape[d] + index[d];
    out.set(i, value.get(from));
    for (size_t d = shape.size(); d-- > 0 && ++index[d] == shape[d];) index[d] = 0;
  }
  return out;
}

}  // namespace quern
