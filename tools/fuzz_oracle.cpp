// See fuzz_oracle.h.
#include "tools/fuzz_oracle.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "ir/compare.h"
#include "ir/interpret.h"
#include "ir/op.h"
#include "ir/symbol.h"
#include "passes/tile/lower.h"
#include "passes/tile/plan.h"
#include "runtime/jit.h"
#include "tools/fuzz_range.h"

namespace quern {
namespace {

std::shared_ptr<const Graph> written_body(const std::shared_ptr<const Graph>& body) { return body ? std::make_shared<const Graph>(written_out(*body)) : nullptr; }

class Writer {
 public:
  explicit Writer(GraphBuilder& b) : b_(b) {}

  // What the outputs are for these arguments, then the states' new values.
  std::vector<NodeId> run(const Graph& g, const std::vector<NodeId>& inputs) {
    std::vector<std::vector<NodeId>> map(g.nodes.size());
    for (size_t i = 0; i < inputs.size(); ++i) map[static_cast<size_t>(g.inputs[i])] = {inputs[i]};
    for (size_t i = 0; i < g.nodes.size(); ++i) {
      const Node& n = g.nodes[i];
      if (n.op == Op::input) continue;
      std::vector<NodeId> args;
      for (NodeId a : n.args) args.push_back(map[static_cast<size_t>(a)][0]);
      if (n.op == Op::result) map[i] = {map[static_cast<size_t>(n.args[0])][static_cast<size_t>(n.attrs.index[0])]};
      else if (means<Body>(n.op)) map[i] = several(n, args);
      else map[i] = {b_.add(n.op, args, n.attrs)};
    }
    std::vector<NodeId> out;
    for (NodeId r : g.roots()) out.push_back(map[static_cast<size_t>(r)][0]);
    return out;
  }

 private:
  GraphBuilder& b_;

  std::vector<NodeId> several(const Node& n, const std::vector<NodeId>& args) {
    const bool derives = n.attrs.derivative || n.attrs.transform == Transform::vjp || n.attrs.transform == Transform::jvp;
    if (n.op == Op::scan) return scan(n, args);
    if (n.op == Op::cond) return cond(n, args);
    if (n.op == Op::call && n.attrs.transform == Transform::vmap) return lanes(n, args);
    if (n.op == Op::call && !derives) return run(*n.attrs.body, args);
    Attrs attrs = n.attrs;
    attrs.body = written_body(n.attrs.body);
    attrs.derivative = written_body(n.attrs.derivative);
    const NodeId node = b_.add(n.op, args, attrs);
    std::vector<NodeId> out;
    for (size_t r = 0; r < b_.type(node).results.size(); ++r) {
      Attrs which;
      which.index = {static_cast<int64_t>(r)};
      out.push_back(b_.add(Op::result, {node}, which));
    }
    return out;
  }

  NodeId part(NodeId x, size_t axis, int64_t at) {
    Attrs cut, shape;
    cut.limit = shape.shape = b_.type(x).shape;
    cut.start.resize(cut.limit.size()), cut.stride.assign(cut.limit.size(), 1);
    cut.start[axis] = at, cut.limit[axis] = at + 1;
    shape.shape.erase(shape.shape.begin() + static_cast<int64_t>(axis));
    return b_.add(Op::reshape, {b_.add(Op::slice, {x}, cut)}, shape);
  }
  NodeId stack(const std::vector<NodeId>& parts, Type type) {
    if (parts.empty()) {
      type.shape.insert(type.shape.begin(), 0);
      return b_.constant(HostTensor(type.dtype, type.shape));
    }
    Attrs row, axis;
    row.shape = type.shape;
    row.shape.insert(row.shape.begin(), 1);
    axis.axes = {0};
    std::vector<NodeId> rows;
    for (NodeId p : parts) rows.push_back(b_.add(Op::reshape, {p}, row));
    return b_.add(Op::concat, rows, axis);
  }

  std::vector<NodeId> lanes(const Node& n, const std::vector<NodeId>& args) {
    const Graph& body = *n.attrs.body;
    std::vector<std::vector<NodeId>> all(body.outputs.size());
    for (int64_t l = 0, count = n.type.results[0].shape[0]; l < count; ++l) {
      std::vector<NodeId> mine;
      for (size_t i = 0; i < args.size(); ++i) {
        const int64_t axis = n.attrs.axes.empty() ? 0 : n.attrs.axes[i];
        mine.push_back(axis < 0 ? args[i] : part(args[i], static_cast<size_t>(axis), l));
      }
      const std::vector<NodeId> out = run(body, mine);
      for (size_t o = 0; o < out.size(); ++o) all[o].push_back(out[o]);
    }
    std::vector<NodeId> out;
    for (size_t o = 0; o < all.size(); ++o) out.push_back(stack(all[o], body.type(body.outputs[o].node)));
    return out;
  }

  std::vector<NodeId> scan(const Node& n, std::vector<NodeId> args) {
    const Graph& body = *n.attrs.body;
    const size_t carries = static_cast<size_t>(n.attrs.index[0]), scanned = static_cast<size_t>(n.attrs.index[1]);
    const int64_t steps = n.attrs.limit[0];
    const bool backward = !n.attrs.stride.empty() && n.attrs.stride[0] < 0;
    std::vector<std::vector<NodeId>> stacks(body.outputs.size() - carries, std::vector<NodeId>(static_cast<size_t>(steps)));
    for (int64_t t = 0; t < steps; ++t) {
      const int64_t p = backward ? steps - 1 - t : t;
      std::vector<NodeId> mine = args;
      for (size_t i = carries; i < carries + scanned; ++i) mine[i] = part(args[i], 0, p);
      const std::vector<NodeId> out = run(body, mine);
      for (size_t k = 0; k < carries; ++k) args[k] = out[k];
      for (size_t o = carries; o < out.size(); ++o) stacks[o - carries][static_cast<size_t>(p)] = out[o];
    }
    std::vector<NodeId> out(args.begin(), args.begin() + static_cast<int64_t>(carries));
    for (size_t o = 0; o < stacks.size(); ++o) out.push_back(stack(stacks[o], body.type(body.outputs[carries + o].node)));
    return out;
  }

  std::vector<NodeId> cond(const Node& n, const std::vector<NodeId>& args) {
    const std::vector<NodeId> given(args.begin() + 1, args.end()), yes = run(*n.attrs.body, given), no = run(*n.attrs.otherwise, given);
    std::vector<NodeId> out;
    for (size_t o = 0; o < yes.size(); ++o) {
      Attrs attrs;
      attrs.shape = b_.type(yes[o]).shape;
      out.push_back(b_.add(Op::select, {attrs.shape.empty() ? args[0] : b_.add(Op::broadcast, {args[0]}, attrs), yes[o], no[o]}));
    }
    return out;
  }
};

// What one output or new state depends on: an error bound of its own, not that of the least precise output.
Graph computation_of(const Graph& graph, size_t root) {
  Graph one = graph;
  one.outputs = {{"", graph.roots()[root]}};
  one.states.clear();
  return dead_code(one);
}

// Infinities and NaN where they are wanted; where rounding decides whether a value is too large, it may be the largest.
bool same_class(const HostTensor& got, const HostTensor& want) {
  for (int64_t i = 0; i < want.size(); ++i) {
    const double g = got.at(i), w = want.at(i);
    if (std::isnan(g) != std::isnan(w)) return false;
    if (std::isinf(g) && std::isinf(w) && g != w) return false;
    if (std::isinf(g) != std::isinf(w) && std::fabs(std::isinf(g) ? w : g) < 6e4) return false;
  }
  return true;
}
HostTensor finite_part(const HostTensor& got, const HostTensor& where) {
  HostTensor out = got;
  for (int64_t i = 0; i < out.size(); ++i)
    if (!std::isfinite(got.at(i)) || !std::isfinite(where.at(i))) out.set(i, Scalar::of(out.dtype, 0));
  return out;
}

// The graph with the last bit of what targets round in different ways at random.
Graph with_last_bits(const Graph& graph, std::mt19937_64& random) {
  GraphBuilder b;
  std::vector<NodeId> map;
  for (const Node& n : graph.nodes) {
    std::vector<NodeId> args;
    for (NodeId a : n.args) args.push_back(map[static_cast<size_t>(a)]);
    Attrs attrs = n.attrs;
    for (auto* body : {&attrs.body, &attrs.otherwise})
      if (*body) *body = std::make_shared<const Graph>(with_last_bits(**body, random));
    NodeId id = n.op == Op::input ? b.input(n.attrs.name, n.type) : b.add(n.op, args, attrs);
    const bool arithmetic = n.op == Op::add || n.op == Op::sub || n.op == Op::mul || n.op == Op::cast;
    if (is_float(n.type.dtype) && n.type.results.empty() && (arithmetic || !exact_op(n))) {
      HostTensor factor(n.type.dtype, n.type.shape);
      for (int64_t i = 0; i < factor.size(); ++i) factor.set(i, Scalar::of(n.type.dtype, 1 + static_cast<double>(static_cast<int64_t>(random() % 3) - 1) * 2 * epsilon_of(n.type.dtype)));
      id = b.add(Op::mul, {id, b.constant(factor)});
    }
    map.push_back(id);
  }
  for (const NamedOutput& o : graph.outputs) b.output(o.name, map[static_cast<size_t>(o.node)]);
  return b.finish();
}
double spread_of(const Graph& one, const std::vector<HostTensor>& inputs, const HostTensor& want) {
  std::mt19937_64 random(1);
  double worst = 0;
  for (int k = 0; k < 4; ++k) worst = std::max(worst, compare(interpret(with_last_bits(one, random), inputs)[0], want).error);
  return worst;
}

Failure differing(const Graph& graph, const Graph& reference, const std::vector<HostTensor>& inputs, const std::vector<HostTensor>& got, const std::vector<HostTensor>& want, bool strict, OracleCounts& counts) {
  for (size_t o = 0; o < got.size(); ++o) {
    const bool finite = !is_float(want[o].dtype) || [&] {
      for (int64_t i = 0; i < want[o].size(); ++i)
        if (!std::isfinite(want[o].at(i))) return false;
      return true;
    }();
    counts.unstable += !finite && !strict;
    if (!finite && !strict) continue;
    const std::string name = o < graph.outputs.size() ? graph.outputs[o].name : graph.states[o - graph.outputs.size()].name;
    if (!finite && !same_class(got[o], want[o])) {
      const Difference d = compare(got[o], want[o]);
      return {"differs", fmt::format("output {} differs at element {}: got {}, want {}", name, d.at, d.got, d.want)};
    }
    const Difference d = finite ? compare(got[o], want[o]) : compare(finite_part(got[o], want[o]), finite_part(want[o], got[o]));
    const Graph one = computation_of(reference, o);
    const double bound = tolerance_of(one).bound();
    if (finite && is_float(want[o].dtype) && d.error > bound && d.error <= 8 * spread_of(one, inputs, want[o])) ++counts.sensitive;
    else if (d.error > bound) return {"differs", fmt::format("output {} differs by {:.2e} (bound {:.2e}) at element {}: got {}, want {}", name, d.error, bound, d.at, d.got, d.want)};
  }
  return {};
}

// Runs one step; the outputs, then the new states.
std::vector<HostTensor> run_step(Executable& executable, const Graph& graph, const std::vector<HostTensor>& inputs) {
  std::vector<HostTensor> plain;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const State* state = graph.state_of(graph.inputs[i]);
    if (!state) plain.push_back(inputs[i]);
    else executable.set_state(state->name, inputs[i]);
  }
  std::vector<HostTensor> out = executable.run(plain);
  for (const State& s : graph.states) out.push_back(executable.state(s.name));
  return out;
}

// Kernels by the tile interpreter, what is between them and around them by the graph's. `any` is the graph with the symbol,
// `g` at the size that is run.
using KernelOf = std::function<tile::Kernel(const Graph& body)>;   // of one with the symbol, at the size that is run
std::vector<HostTensor> run_tiles(const Graph& any, const Graph& g, const std::vector<HostTensor>& inputs, const KernelOf& kernel_of) {
  std::vector<std::vector<HostTensor>> values(g.nodes.size());
  for (size_t i = 0; i < inputs.size(); ++i) values[static_cast<size_t>(g.inputs[i])] = {inputs[i]};
  for (size_t i = 0; i < g.nodes.size(); ++i) {
    const Node& n = g.nodes[i];
    const Attrs& of_any = any.nodes[i].attrs;
    if (n.op == Op::input) continue;
    const auto inside = [&](const Graph& any_body, const Graph& body, const std::vector<HostTensor>& given) { return run_tiles(any_body, body, given, kernel_of); };
    std::vector<HostTensor*> args;
    for (NodeId a : n.args) args.push_back(&values[static_cast<size_t>(a)][0]);
    const auto taken = [&](size_t first) {
      std::vector<HostTensor> out;
      for (size_t a = first; a < args.size(); ++a) out.push_back(*args[a]);
      return out;
    };
    if (n.op == Op::result) {
      values[i] = {values[static_cast<size_t>(n.args[0])][static_cast<size_t>(n.attrs.index[0])]};
    } else if (n.op == Op::call) {
      for (const Type& t : n.type.results) values[i].emplace_back(t.dtype, t.shape);
      for (HostTensor& t : values[i]) args.push_back(&t);
      tile::interpret(kernel_of(*of_any.body), args);
    } else if (n.op == Op::cond) {
      const bool yes = args[0]->get(0).truthy();
      values[i] = inside(yes ? *of_any.body : *of_any.otherwise, yes ? *n.attrs.body : *n.attrs.otherwise, taken(1));
    } else if (n.op == Op::while_loop) {
      std::vector<HostTensor> state = taken(0);
      while (state[0].get(0).truthy()) {
        std::vector<HostTensor> next = inside(*of_any.body, *n.attrs.body, state);
        std::move(next.begin(), next.end(), state.begin());
      }
      state.resize(static_cast<size_t>(n.attrs.index[0]));
      values[i] = std::move(state);
    } else if (n.op == Op::scan) {
      const size_t carries = static_cast<size_t>(n.attrs.index[0]), scanned = static_cast<size_t>(n.attrs.index[1]);
      const int64_t steps = n.attrs.limit[0];
      std::vector<HostTensor> state = taken(0);
      for (const Type& t : n.type.results) values[i].emplace_back(t.dtype, t.shape);
      for (int64_t t = 0; t < steps; ++t) {
        const int64_t p = n.attrs.stride.empty() || n.attrs.stride[0] > 0 ? t : steps - 1 - t;
        for (size_t a = carries; a < carries + scanned; ++a) {
          state[a] = HostTensor(args[a]->dtype, {args[a]->shape.begin() + 1, args[a]->shape.end()});
          std::copy_n(args[a]->bytes.begin() + p * static_cast<int64_t>(state[a].bytes.size()), state[a].bytes.size(), state[a].bytes.begin());
        }
        std::vector<HostTensor> next = inside(*of_any.body, *n.attrs.body, state);
        for (size_t o = carries; o < next.size(); ++o) std::copy(next[o].bytes.begin(), next[o].bytes.end(), values[i][o].bytes.begin() + p * static_cast<int64_t>(next[o].bytes.size()));
        std::move(next.begin(), next.begin() + static_cast<int64_t>(carries), state.begin());
      }
      std::move(state.begin(), state.begin() + static_cast<int64_t>(carries), values[i].begin());
    } else {
      values[i] = {def_of(n.op).eval(n, std::vector<const HostTensor*>(args.begin(), args.end()))};
    }
  }
  std::vector<HostTensor> out;
  for (NodeId r : g.roots()) out.push_back(values[static_cast<size_t>(r)][0]);
  return out;
}

int64_t size_of_set(const Graph& graph, const InputSet& inputs) {
  std::vector<Shape> shapes;
  for (const HostTensor& t : inputs) shapes.push_back(t.shape);
  return size_for(graph, shapes);
}

// `prepare` makes what runs an input set.
template <class Prepare>
Failure checked(const Graph& graph, const std::vector<InputSet>& sets, bool strict, OracleCounts& counts, Prepare&& prepare) {
  size_t set = 0;
  try {
    const auto run = prepare();
    for (; set < sets.size(); ++set) {
      const Graph sized = graph.symbol ? at_size(graph, size_of_set(graph, sets[set])) : graph, reference = reference_of(sized);
      counts.ops += static_cast<int64_t>(reference.nodes.size());
      Failure failure = differing(sized, reference, sets[set], run(sets[set]), interpret(reference, sets[set]), strict, counts);
      failure.set = set;
      if (failure) return failure;
    }
    return {};
  } catch (const Error& e) {
    return {to_string(e.code), e.what(), std::min(set, sets.size() - 1)};
  }
}

}  // namespace

Graph written_out(const Graph& graph) {
  GraphBuilder b;
  b.symbol(graph.symbol);
  std::vector<NodeId> inputs;
  for (NodeId i : graph.inputs) inputs.push_back(b.input(graph.at(i).attrs.name, graph.type(i)));
  const std::vector<NodeId> out = Writer(b).run(graph, inputs);
  for (size_t o = 0; o < graph.outputs.size(); ++o) b.output(graph.outputs[o].name, out[o]);
  for (size_t s = 0; s < graph.states.size(); ++s) {
    const auto at = std::find(graph.inputs.begin(), graph.inputs.end(), graph.states[s].input);
    b.state(graph.states[s].name, inputs[static_cast<size_t>(at - graph.inputs.begin())], out[graph.outputs.size() + s]);
  }
  return dead_code(b.finish());
}

Graph reference_of(const Graph& graph) {
  PassContext context;
  return expand(written_out(graph), context);
}

static bool has_roles(const tile::Kernel& kernel) { return !kernel.phases[0].roles.empty(); }

// Sums are short and matrices small here: in every other graph they count as long, and as large.
static int64_t long_sum_of(const Graph& graph) { return graph.nodes.size() % 2 ? 4 : 0; }
static int64_t large_matrix_of(const Graph& graph) { return graph.nodes.size() % 2 ? 1 : 0; }

Failure check_compiled(Device& device, const Graph& graph, const std::vector<InputSet>& sets, bool strict, Fp fp, OracleCounts& counts) {
  return checked(graph, sets, strict, counts, [&] {
    CompileOptions options;
    options.use_cache = false;
    options.passes.fp = fp;
    options.passes.long_sum = long_sum_of(graph);
    options.passes.large_matrix = large_matrix_of(graph);
    CompileReport report;
    std::shared_ptr<Executable> executable = jit(device, graph, options, &report);
    counts.kernels += static_cast<int64_t>(report.lowered.size());
    counts.roles += std::count_if(report.planned.begin(), report.planned.end(), has_roles);
    return [&graph, executable](const InputSet& inputs) { return run_step(*executable, graph, inputs); };
  });
}

Failure check_tiles(const Graph& graph, const std::vector<InputSet>& sets, bool strict, int64_t tile, OracleCounts& counts) {
  return checked(graph, sets, strict, counts, [&] {
    PassContext context;
    context.long_sum = long_sum_of(graph);
    context.large_matrix = large_matrix_of(graph), context.lanes = 4, context.registers = 8;
    return [&, kernels = run_pipeline(graph, context)](const InputSet& inputs) {
      const int64_t size = size_of_set(graph, inputs);
      return run_tiles(kernels, graph.symbol ? at_size(kernels, size) : kernels, inputs, [&](const Graph& body) {
        ++counts.kernels;
        tile::Kernel kernel = lower(body, "k", graph.symbol ? graph.symbol->high : 0);
        for (size_t a = 0; a < kernel.axes.size(); ++a)
          if (!tile::is_walked(kernel, static_cast<tile::AxisId>(a))) kernel.axes[a].tile = tile;
        tile::verify(kernel);
        return graph.symbol ? tile::at_size(std::move(kernel), size) : kernel;
      });
    };
  });
}

Failure check_plans(const Target& target, const Graph& graph, const std::vector<InputSet>& sets, bool strict, Fp fp, OracleCounts& counts) {
  return checked(graph, sets, strict, counts, [&] {
    PassContext context;
    context.fp = fp;
    set_target(context, target, F32Products::f8);   // which leaves all others as they are
    context.large_product = 1;
    return [&, kernels = run_pipeline(graph, context)](const InputSet& inputs) {
      return run_tiles(kernels, kernels, inputs, [&](const Graph& body) {
        tile::Kernel kernel = plan_cuda(lower(body, "k", 0, 0, 1, Updates::side_by_side), target.arch, F32Products::f8);
        tile::verify(kernel);
        ++counts.kernels;
        counts.roles += has_roles(kernel);
        return kernel;
      });
    };
  });
}

}  // namespace quern
