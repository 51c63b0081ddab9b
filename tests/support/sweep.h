// The op sweep's parts: one graph per sample, values for its inputs, and the three ways of running it.
#pragma once
#include <random>

#include "ir/compare.h"
#include "ir/interpret.h"
#include "ir/op.h"
#include "passes/pass.h"
#include "passes/tile/lower.h"

namespace quern::test {

struct Case {
  std::string name;
  Graph graph;
  std::vector<HostTensor> inputs;
};

inline HostTensor random_tensor(const Type& type, double low, double high, std::mt19937_64& random) {
  HostTensor t(type.dtype, type.shape);
  for (int64_t i = 0; i < t.size(); ++i) {
    const double u = low + (high - low) * (static_cast<double>(random() >> 11) * 0x1p-53);
    if (is_float(type.dtype)) t.set(i, Scalar::of(type.dtype, u));
    else if (type.dtype == DType::boolean) t.set(i, Scalar::of_int(type.dtype, static_cast<int64_t>(random() & 1)));
    else t.set(i, Scalar::of_int(type.dtype, static_cast<int64_t>(u < 0 && (type.dtype == DType::u8 || type.dtype == DType::u32) ? -u : u)));
  }
  return t;
}

/// Every op × dtype × sample as a graph of that one op.
inline std::vector<Case> all_cases() {
  std::vector<Case> out;
  std::mt19937_64 random(1);
  for (int o = 0; o < kOpCount; ++o)
    for (int d = 0; d < kDTypeCount; ++d) {
      const OpDef& def = def_of(static_cast<Op>(o));
      int number = 0;
      for (const Sample& s : def.samples(static_cast<DType>(d))) {
        Case c;
        c.name = std::string(def.name) + "." + std::string(name_of(static_cast<DType>(d))) + "." + std::to_string(number++);
        GraphBuilder b;
        std::vector<NodeId> args;
        for (size_t a = 0; a < s.args.size(); ++a) {
          args.push_back(b.input("x" + std::to_string(a), s.args[a]));
          c.inputs.push_back(random_tensor(s.args[a], s.low, s.high, random));
        }
        b.output("y", b.add(def.op, args, s.attrs));
        c.graph = b.finish();
        out.push_back(std::move(c));
      }
    }
  return out;
}

/// Runs the graph kernel by kernel through the tile interpreter. `plan` may change each kernel first.
template <class Plan>
std::vector<HostTensor> run_tiles(const Graph& graph, const std::vector<HostTensor>& inputs, Plan&& plan) {
  PassContext context;
  const Graph kernels = run_pipeline(graph, context);
  std::vector<std::vector<HostTensor>> values(kernels.nodes.size());
  for (size_t i = 0; i < inputs.size(); ++i) values[static_cast<size_t>(kernels.inputs[i])] = {inputs[i]};
  for (size_t i = 0; i < kernels.nodes.size(); ++i) {
    const Node& n = kernels.nodes[i];
    if (n.op == Op::constant) values[i] = {*n.attrs.value};
    if (n.op == Op::result) values[i] = {values[static_cast<size_t>(n.args[0])][static_cast<size_t>(n.attrs.index[0])]};
    if (n.op != Op::call) continue;
    const tile::Kernel kernel = plan(lower(*n.attrs.body, "k"));
    tile::verify(kernel);
    std::vector<HostTensor*> buffers;
    for (NodeId a : n.args) buffers.push_back(&values[static_cast<size_t>(a)][0]);
    for (const Type& t : n.type.results) values[i].emplace_back(t.dtype, t.shape);
    for (HostTensor& t : values[i]) buffers.push_back(&t);
    tile::interpret(kernel, buffers);
  }
  std::vector<HostTensor> out;
  for (NodeId r : kernels.roots()) out.push_back(values[static_cast<size_t>(r)][0]);
  return out;
}

}  // namespace quern::test
