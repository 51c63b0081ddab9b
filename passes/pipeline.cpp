// READ FIRST. What happens to a graph before it is lowered: this list, in this order, with the verifier in between.
// Equal nodes merge wherever a graph is built (GraphBuilder::add), and every pass ends without dead code (dead_code):
// so there is no pass for common subexpressions, and none for dead code.
#include <algorithm>
#include <chrono>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "ir/op.h"
#include "ir/support/suggest.h"
#include "passes/pass.h"

namespace quern {

const std::vector<Pass>& pipeline() {
  static const std::vector<Pass> passes = {
      {"expand", expand, Pass::Bodies::with_graph},   // transforms (vjp, vmap) and composed ops → primitive nodes
      {"simplify", simplify},    // rule table; equal nodes merge, dead ones go
      {"fold", fold},            // constants
      {"loops", loops},          // scans: what need not be inside comes before or behind
      {"reassociate", reassociate},   // where products are nested: shorter sums
      {"scores", scores},        // what kernels hand on of a row's exponentials: one number
      {"chunks", chunks},        // long sums are made in parts
      {"align", align},          // rows of short products: where the copy engine reaches
      {"panels", panels},        // what products read, laid out for them: what loops read again, what tensor cores take
      {"remat", remat, Pass::Bodies::with_graph},     // where memory is limited: recomputation instead of waiting values
      {"setup", setup, Pass::Bodies::with_graph},     // what no run changes: stored, so that it is computed once
      {"ordered", ordered},      // sums of the same weights along both their axes: one kernel's, in order
      {"partition", partition, Pass::Bodies::with_graph},  // groups of nodes → kernel calls
      {"precision", precision},  // where short floats are rounded
  };
  return passes;
}

Graph run_pass(const Pass& pass, const Graph& graph, PassContext& context) {
  if (pass.bodies == Pass::Bodies::with_graph) return pass.run(graph, context);
  Graph own = graph;
  for (size_t i = 0; i < own.nodes.size(); ++i) {
    Node& n = own.nodes[i];
    if (!is_control_flow(n.op)) continue;
    const std::string outer = std::exchange(context.within, fmt::format("{}in %{} {}: ", context.within, i, name_of(n.op)));
    for (auto* body : {&n.attrs.body, &n.attrs.otherwise})
      if (*body) *body = std::make_shared<const Graph>(run_pass(pass, **body, context));
    context.within = outer;
  }
  return pass.run(own, context);
}

Graph run_pipeline(const Graph& graph, PassContext& context) {
  for (const std::string& name : context.disabled) {
    std::vector<std::string> names;
    for (const Pass& p : pipeline()) names.emplace_back(p.name);
    names.emplace_back("clusters");   // of launches, when all is planned (codegen/clusters.h)
    if (!std::count(names.begin(), names.end(), name)) throw Error(Code::unknown_pass, fmt::format("there is no pass \"{}\"; passes are: {}", name, fmt::join(names, ", "))).with_help(suggestion(name, names, "simplify, fold, loops, reassociate, scores, chunks, align, panels, remat, setup, ordered, precision and clusters may be disabled"));
    if (name == "expand" || name == "partition") throw Error(Code::unknown_pass, fmt::format("the pass \"{}\" cannot be disabled: what follows relies on it", name)).with_help("simplify, fold, loops, reassociate, scores, chunks, align, panels, remat, setup, ordered, precision and clusters can");
  }
  auto start = std::chrono::steady_clock::now();
  const auto lap = [&] {
    const auto now = std::chrono::steady_clock::now();
    return std::chrono::duration<double, std::milli>(now - std::exchange(start, now)).count();
  };
  double verified = 0;
  const auto check = [&](const Graph& g) {
    if (context.verify) verify(g);
    verified += lap();
  };
  check(graph);
  Graph current = graph;
  for (const Pass& pass : pipeline()) {
    if (std::count(context.disabled.begin(), context.disabled.end(), pass.name)) continue;
    current = run_pass(pass, current, context);
    context.times.emplace_back(pass.name, lap());
    check(current);
    if (context.after) context.after(pass.name, current);
    lap();
  }
  context.times.emplace_back("verify", verified);
  return current;
}

}  // namespace quern
