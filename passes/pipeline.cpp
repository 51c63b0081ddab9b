// READ FIRST. What happens to a graph before it is lowered: this list, in this order, with the verifier in between.
// Equal nodes merge wherever a graph is built (GraphBuilder::add), and every pass ends without dead code (dead_code):
// so there is no pass for common subexpressions, and none for dead code.
#include <algorithm>
#include <chrono>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "ir/support/suggest.h"
#include "passes/pass.h"

namespace quern {

const std::vector<Pass>& pipeline() {
  static const std::vector<Pass> passes = {
      {"expand", expand},        // transforms (vjp, vmap) and composed ops → primitive nodes
      {"simplify", simplify},    // rule table; equal nodes merge, dead ones go
      {"fold", fold},            // constants
      {"partition", partition},  // groups of nodes → kernel calls
      {"precision", precision},  // where short floats are rounded
  };
  return passes;
}

Graph run_pipeline(const Graph& graph, PassContext& context) {
  for (const std::string& name : context.disabled) {
    std::vector<std::string> names;
    for (const Pass& p : pipeline()) names.emplace_back(p.name);
    if (!std::count(names.begin(), names.end(), name)) throw Error(Code::unknown_pass, fmt::format("there is no pass \"{}\"; passes are: {}", name, fmt::join(names, ", "))).with_help(suggestion(name, names, "simplify, fold and precision may be disabled"));
    if (name == "expand" || name == "partition") throw Error(Code::unknown_pass, fmt::format("the pass \"{}\" cannot be disabled: what follows relies on it", name)).with_help("simplify, fold and precision can");
  }
  if (context.verify) verify(graph);
  Graph current = graph;
  for (const Pass& pass : pipeline()) {
    if (std::count(context.disabled.begin(), context.disabled.end(), pass.name)) continue;
    const auto start = std::chrono::steady_clock::now();
    current = pass.run(current, context);
    context.times.emplace_back(pass.name, std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    if (context.verify) verify(current);
    if (context.after) context.after(pass.name, current);
  }
  return current;
}

}  // namespace quern
