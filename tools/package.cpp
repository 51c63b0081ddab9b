// See package.h.
#include "tools/package.h"

#include <set>

#include <fmt/format.h>

#include "ir/symbol.h"
#include "ir/text.h"
#include "models/dataset.h"

namespace quern {

// Its slots must be of the types that the graph says.
static Graph graph_of(const Program& program, const std::string& file) {
  const Graph graph = parse_graph(program.graph_text, file);
  bool agree = graph.outputs.size() == program.outputs.size() && graph.states.size() == program.states.size() && graph.inputs.size() == program.inputs.size() + program.states.size();
  std::set<NodeId> states;
  for (const State& s : graph.states) states.insert(s.input);
  size_t next = 0;
  for (NodeId id : graph.inputs) {
    if (states.count(id) || !agree || next == program.inputs.size()) continue;
    const Slot& slot = program.slots[static_cast<size_t>(program.inputs[next++])];
    agree = agree && slot.dtype == graph.type(id).dtype && slot.shape == at_size(graph.type(id).shape, program.size_high);
  }
  if (!agree || next != program.inputs.size()) throw Error(Code::damaged_package, fmt::format("{}: its graph and its program disagree", file)).with_help("compile it again");
  return graph;
}

Program load_package(const std::string& file, Graph* graph) {
  Program program = load_program(read_file(file, int64_t{1} << 31), file);
  *graph = graph_of(program, file);
  return program;
}

}  // namespace quern
