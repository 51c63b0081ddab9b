// See assemble.h. A value's `whole` is the value that owns the memory it lies in: itself but for views between calls
// and for what a concat between calls holds. Lifetimes and slots belong to wholes.
#include "codegen/assemble.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "ir/op.h"
#include "ir/support/fault.h"
#include "ir/symbol.h"
#include "passes/plan/memory.h"
#include "passes/plan/place.h"

namespace quern {
namespace {

// Does a nested block touch the buffer, or store anything?
bool nested_use(const tile::Block& block, tile::BufferId buffer, bool nested) {
  return std::any_of(block.begin(), block.end(), [&](const tile::Stmt& s) {
    if (const auto* load = std::get_if<tile::Load>(&s.node)) return nested && load->buffer == buffer;
    if (const auto* seq = std::get_if<tile::Seq>(&s.node)) return nested_use(seq->body, buffer, true);
    if (const auto* each = std::get_if<tile::Each>(&s.node)) return nested_use(each->body, buffer, true);
    return nested && std::holds_alternative<tile::Store>(s.node);
  });
}

// May output `out` of the kernel share memory with input `in`? Only when every instance reads of it exactly the elements
// that it stores, before it does, at the top of its block; and when all outputs have the same axes: then the thread
// that stores an element is the one whose reads of it count, also where a GPU's other threads hold copies.
bool may_overwrite(const tile::Kernel& k, tile::BufferId in, tile::BufferId out) {
  if (k.phases.size() != 1 || k.buffers[static_cast<size_t>(in)].shape != k.buffers[static_cast<size_t>(out)].shape) return false;
  const tile::Block& block = k.phases[0].body;
  if (nested_use(block, in, false)) return false;
  const tile::Store* stored = nullptr;
  std::vector<const tile::Store*> stores;
  for (const tile::Stmt& s : block)
    if (const auto* store = std::get_if<tile::Store>(&s.node)) {
      stores.push_back(store);
      if (store->buffer == out) stored = store;
    }
  if (!stored) return false;
  const auto axes = [&](const tile::Store* s) { return k.values[static_cast<size_t>(s->value)].axes; };
  if (std::any_of(stores.begin(), stores.end(), [&](const tile::Store* s) { return axes(s) != axes(stored); })) return false;
  bool written = false;
  for (const tile::Stmt& s : block) {
    written = written || std::get_if<tile::Store>(&s.node) == stored;
    const auto* load = std::get_if<tile::Load>(&s.node);
    if (!load || load->buffer != in) continue;
    if (written) return false;
    for (size_t d = 0; d < stored->index.size(); ++d)
      if (load->index[d].gather >= 0 || !(load->index[d].index == stored->index[d])) return false;
  }
  return true;
}

class Assembler {
 public:
  Assembler(const Graph& kernels, const Graph& at_bound, const std::vector<NodeId>& calls, Program& program)
      : symbolic_(kernels), graph_(at_bound), program_(program), calls_(calls), places_(places_of(kernels)) {}

  void run(const std::map<NodeId, std::vector<int64_t>>& images, const std::map<NodeId, const tile::Kernel*>& lowered) {
    for (size_t i = 0; i < calls_.size(); ++i) step_of_[calls_[i]] = static_cast<int>(i);
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const NodeId id = static_cast<NodeId>(i);
      const Node& n = graph_.nodes[i];
      if (n.op == Op::result) {
        results_[n.args[0]].push_back(id);
        Steps& made = made_.emplace(whole(id), Steps{INT32_MAX, -1}).first->second;
        made.first = std::min(made.first, step_of_.at(n.args[0]));
        made.last = std::max(made.last, step_of_.at(n.args[0]));
      } else if (n.op == Op::call) {
        for (NodeId a : n.args) last_read_[whole(a)] = std::max(last_read_[whole(a)], step_of_.at(id));
      }
    }
    give_leaves();
    give_states(lowered);
    give_outputs();
    give_arena();
    std::vector<Step> launches;
    for (NodeId call : calls_) launches.push_back(Launch{images.at(call), operands(call)});
    for (const std::vector<Step>* part : {&before_, &launches, &after_}) program_.steps.insert(program_.steps.end(), part->begin(), part->end());
  }

 private:
  struct Steps { int first, last; };

  const Graph &symbolic_, &graph_;
  Program& program_;
  const std::vector<NodeId>& calls_;
  std::vector<Place> places_;
  std::map<NodeId, int64_t> slot_of_;              // of wholes
  std::map<std::pair<NodeId, NodeId>, int64_t> parts_;   // slots of values within a whole
  std::map<NodeId, int> step_of_, last_read_;      // of calls; of wholes
  std::map<NodeId, Steps> made_;                   // wholes that calls write
  std::map<NodeId, std::vector<NodeId>> results_;  // of calls
  std::vector<std::pair<NodeId, int64_t>> late_;   // value, slot: copied after the last launch
  std::map<NodeId, int64_t> kept_;                 // what late copies read of leaves: a copy from before the first launch
  std::vector<Step> before_, after_;

  NodeId whole(NodeId id) const { return places_[static_cast<size_t>(id)].whole; }
  bool is_leaf(NodeId whole) const { return !made_.count(whole); }
  // Is the value all of what owns its memory?
  bool fills(NodeId id) const { return graph_.type(id).bytes() == graph_.type(whole(id)).bytes(); }

  int64_t new_slot(SlotKind kind, NodeId value, std::string name) {
    const Type& type = graph_.type(value);
    Slot s;
    s.kind = kind;
    s.dtype = type.dtype;
    s.shape = type.shape;
    const Shape& symbolic = symbolic_.type(value).shape;
    for (size_t d = 1; d < symbolic.size(); ++d)
      if (is_symbolic(symbolic[d])) throw Error(Code::symbol_place, fmt::format("{} has the symbolic size in dim {}", to_string(symbolic_.type(value)), d), symbolic_.where(value)).with_help("in memory it must be dim 0: transpose the tensor");
    if (!symbolic.empty()) s.symbol = symbol_factor(symbolic[0]);
    s.name = std::move(name);
    program_.slots.push_back(std::move(s));
    return static_cast<int64_t>(program_.slots.size() - 1);
  }

  // The slot of a value whose whole has one.
  int64_t slot(NodeId id) {
    const int64_t base = slot_of_.at(whole(id));
    if (fills(id)) return base;
    const auto [it, fresh] = parts_.emplace(std::pair{whole(id), id}, -1);
    if (fresh) {
      it->second = new_slot(program_.slots[static_cast<size_t>(base)].kind, id, "");
      Slot& part = program_.slots.back();
      part.offset = places_[static_cast<size_t>(id)].offset;
      if (part.kind == SlotKind::arena) part.offset += program_.slots[static_cast<size_t>(base)].offset;
      else part.parent = base;
    }
    return it->second;
  }

  void give_leaves() {
    std::map<NodeId, std::string> states;
    for (const State& s : graph_.states) states[s.input] = s.name;
    for (NodeId id : graph_.inputs) {
      const bool state = states.count(id) > 0;
      slot_of_[id] = new_slot(state ? SlotKind::state : SlotKind::input, id, state ? states[id] : graph_.at(id).attrs.name);
      if (!state) program_.inputs.push_back(slot_of_[id]);
    }
    for (const State& s : graph_.states) program_.states.push_back(slot_of_.at(s.input));
    for (size_t i = 0; i < graph_.nodes.size(); ++i)
      if (graph_.nodes[i].op == Op::constant) {
        slot_of_[static_cast<NodeId>(i)] = new_slot(SlotKind::constant, static_cast<NodeId>(i), "");
        program_.slots.back().value = *graph_.nodes[i].attrs.value;
      }
  }

  // May the new value of a state take its slot from the first step that writes it?
  bool in_place(const State& s, const std::map<NodeId, const tile::Kernel*>& lowered) const {
    // An output or another state that shows the old value needs it until the end.
    for (NodeId r : graph_.roots())
      if (whole(r) == s.input) return false;
    const int step = made_.at(whole(s.output)).first, last = last_read_.count(s.input) ? last_read_.at(s.input) : -1;
    if (last != step) return last < step;
    if (graph_.at(s.output).op != Op::result || whole(s.output) != s.output) return false;
    const NodeId call = calls_[static_cast<size_t>(step)];
    const Node& n = graph_.at(call);
    const auto out = static_cast<tile::BufferId>(n.args.size()) + static_cast<tile::BufferId>(graph_.at(s.output).attrs.index[0]);
    for (size_t a = 0; a < n.args.size(); ++a) {
      if (whole(n.args[a]) != s.input || planted(Fault::state_in_place)) continue;
      if (n.args[a] != s.input || !may_overwrite(*lowered.at(call), static_cast<tile::BufferId>(a), out)) return false;
    }
    return true;
  }
  void give_states(const std::map<NodeId, const tile::Kernel*>& lowered) {
    for (const State& s : graph_.states) {
      if (s.output == s.input) continue;
      const NodeId w = whole(s.output);
      if (!is_leaf(w) && fills(s.output) && !slot_of_.count(w) && in_place(s, lowered)) slot_of_[w] = slot_of_.at(s.input);
      else late_.push_back({s.output, slot_of_.at(s.input)});
    }
  }

  void give_outputs() {
    for (const NamedOutput& o : graph_.outputs) {
      const int64_t to = new_slot(SlotKind::output, o.node, o.name);
      program_.outputs.push_back(to);
      const NodeId w = whole(o.node);
      if (is_leaf(w)) before_.push_back(Copy{slot(o.node), to});
      else if (fills(o.node) && !slot_of_.count(w)) slot_of_[w] = to;
      else late_.push_back({o.node, to});
    }
  }

  void give_arena() {
    const int steps = static_cast<int>(calls_.size());
    std::set<NodeId> until_end;
    for (const auto& [value, to] : late_) until_end.insert(whole(value));
    std::vector<NodeId> values;
    std::vector<Lifetime> lifetimes;
    for (const auto& [w, made] : made_) {
      if (slot_of_.count(w)) continue;
      const int last = until_end.count(w) ? steps : std::max(made.last, last_read_.count(w) ? last_read_.at(w) : -1);
      values.push_back(w);
      lifetimes.push_back({round_up(graph_.type(w).bytes(), 64), made.first, last});
    }
    // States that swap need their old values out of the way first: copies between states go through the arena.
    for (const auto& [value, to] : late_)
      if (is_leaf(whole(value))) {
        values.push_back(value);
        lifetimes.push_back({round_up(graph_.type(value).bytes(), 64), 0, steps});
      }
    const MemoryPlan plan = plan_memory(lifetimes);
    program_.arena_bytes = plan.total;
    program_.lower_bound = plan.lower_bound;
    for (size_t i = 0; i < values.size(); ++i) {
      const int64_t place = new_slot(SlotKind::arena, values[i], "");
      program_.slots.back().offset = plan.offsets[i];
      if (!is_leaf(whole(values[i]))) {
        slot_of_[values[i]] = place;
      } else {
        before_.push_back(Copy{slot(values[i]), place});
        kept_[values[i]] = planted(Fault::states_swapped) ? slot(values[i]) : place;
      }
    }
    if (planted(Fault::late_copy)) return;
    for (const auto& [value, to] : late_) after_.push_back(Copy{is_leaf(whole(value)) ? kept_.at(value) : slot(value), to});
  }

  std::vector<int64_t> operands(NodeId call) {
    std::vector<int64_t> out;
    const Node& n = graph_.at(call);
    for (NodeId a : n.args) out.push_back(slot(a));
    std::vector<int64_t> results(n.type.results.size(), -1);
    for (NodeId r : results_.at(call)) results[static_cast<size_t>(graph_.at(r).attrs.index[0])] = slot(r);
    for (int64_t r : results) {
      QN_CHECK(r >= 0, "every result of a kernel call is used");
      out.push_back(r);
    }
    return out;
  }
};

}  // namespace

void assemble(const Graph& kernels, const Graph& at_bound, const std::vector<NodeId>& calls, const std::map<NodeId, std::vector<int64_t>>& images, const std::map<NodeId, const tile::Kernel*>& lowered,
              Program& program) {
  Assembler(kernels, at_bound, calls, program).run(images, lowered);
}

}  // namespace quern
