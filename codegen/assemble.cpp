// See assemble.h. A value's `whole` is the value that owns the memory it lies in: itself but for views between calls
// and for what a concat between calls holds. Lifetimes and slots belong to wholes.
//
// One Level per graph: the program's and each body's. All levels share the arena and one time line, on which a loop with
// its body takes an interval. A carry of a scan has two places that take turns, or, where the scan also stacks it, one for
// each step: the stack is then part of them; one alone where the symbol says how many steps there are. A scanned argument is
// read and a stack written slice by slice where it lies.
#include "codegen/assemble.h"

#include <algorithm>
#include <functional>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "ir/op.h"
#include "ir/support/fault.h"
#include "ir/symbol.h"
#include "passes/graph/setup.h"
#include "passes/plan/memory.h"
#include "passes/plan/place.h"
#include "passes/tile/overwrite.h"

namespace quern {
namespace {

struct Interval { int first, last; };   // of steps

// The calls whose results are the same in every run, of the program's own graph. What lies in one range of memory with what
// is made in every run is made with it.
std::set<NodeId> unchanging_calls(const Graph& kernels) {
  std::vector<char> same = unchanging_nodes(kernels);
  const std::vector<Place> places = places_of(kernels);
  const auto is_same = [&](NodeId id) -> char& { return same[static_cast<size_t>(id)]; };
  for (bool changed = true; std::exchange(changed, false);)
    for (size_t i = 0; i < same.size(); ++i) {
      const Node& n = kernels.nodes[i];
      const bool beside_others = n.op == Op::result && !is_same(places[i].whole);
      if (!same[i] || n.op == Op::input || (!beside_others && std::all_of(n.args.begin(), n.args.end(), is_same))) continue;
      same[i] = 0, changed = true;
      if (beside_others) is_same(n.args[0]) = 0;
    }
  std::set<NodeId> out;
  for (size_t i = 0; i < same.size(); ++i)
    if (same[i] && means<Body>(kernels.nodes[i].op) && kernels.nodes[i].op != Op::result) out.insert(static_cast<NodeId>(i));
  return out;
}

// What all levels share.
struct Arena {
  Program& program;
  const Schedule& schedule;
  Reuse reuse;
  std::set<NodeId> once;        // calls of the program's own graph, which stand first
  int setup_end = 0;            // when the last of them is over
  std::map<KernelCall, Interval> when;
  std::vector<Lifetime> lifetimes;
  std::vector<int64_t> slots;   // of each lifetime

  // Types may hold the symbol; places are for its bound.
  Type at_bound(const Type& type) const { return at_size(type, program.size_high); }
  int64_t new_slot(SlotKind kind, const Type& type, std::string name = "") {
    Slot s;
    s.kind = kind;
    s.dtype = type.dtype;
    s.shape = at_bound(type).shape;
    for (size_t d = 0; d < type.shape.size(); ++d)
      if (is_symbolic(type.shape[d])) s.symbol = symbol_factor(type.shape[d]), s.along = static_cast<int64_t>(d);
    s.name = std::move(name);
    program.slots.push_back(std::move(s));
    return static_cast<int64_t>(program.slots.size() - 1);
  }
  int64_t new_place(const Type& type, int first, int last) {
    lifetimes.push_back({round_up(at_bound(type).bytes(), 64), first, last});
    slots.push_back(new_slot(SlotKind::arena, type));
    return slots.back();
  }
  int64_t sub_range(int64_t parent, const Type& type, int64_t offset) {
    const int64_t s = new_slot(program.slots[static_cast<size_t>(parent)].kind, type);
    program.slots.back().parent = parent;
    program.slots.back().offset = offset;
    return s;
  }
  /// Entry (first + step * t) mod entries of the parent in iteration t.
  int64_t slice_of(int64_t parent, const Type& type, int64_t stride, int64_t loop, int64_t first, int64_t step, int64_t entries) {
    const int64_t s = sub_range(parent, type, 0);
    Slot& slot = program.slots.back();
    slot.loop = loop, slot.stride = stride, slot.first = first, slot.step = step, slot.entries = entries;
    return s;
  }
  /// May a kernel read or write it where it is?
  bool aligned(int64_t slot) const {
    for (; slot >= 0; slot = program.slots[static_cast<size_t>(slot)].parent)
      if (const Slot& s = program.slots[static_cast<size_t>(slot)]; s.parent >= 0 && (s.offset % 64 != 0 || s.stride % 64 != 0)) return false;
    return true;
  }
  // The calls of a graph and, within, those of its bodies take their places in time.
  int number(const Graph& graph, int now) {
    for (NodeId call : schedule.calls.at(&graph)) {
      const Node& n = graph.at(call);
      const int first = now++;
      if (is_control_flow(n.op)) {
        for (const auto& body : {n.attrs.body, n.attrs.otherwise})
          if (body) now = number(*body, now);
        ++now;
      }
      when[{&graph, call}] = {first, now - 1};
    }
    return now;
  }
  bool is_reused_later(int64_t bytes) const { return reuse == Reuse::later && bytes <= 64 << 10; }
  void finish() {
    constexpr int kSteps = 8;
    for (Lifetime& l : lifetimes)
      if (is_reused_later(l.bytes)) l.last += kSteps;
    const MemoryPlan plan = plan_memory(lifetimes);
    program.arena_bytes = plan.total;
    program.lower_bound = plan.lower_bound;
    for (size_t i = 0; i < slots.size(); ++i) program.slots[static_cast<size_t>(slots[i])].offset = plan.offsets[i];
    for (Slot& s : program.slots)   // parts of what does not move: places of their own
      if (s.kind == SlotKind::arena && s.parent >= 0 && s.loop < 0)
        if (const Slot& parent = program.slots[static_cast<size_t>(s.parent)]; parent.parent < 0 && s.offset % 64 == 0) s.offset += parent.offset, s.parent = -1;
  }
};

class Level {
 public:
  Level(const Graph& kernels, const Graph& at_bound, Arena& arena, int end)
      : symbolic_(kernels), graph_(at_bound), arena_(arena), program_(arena.program), calls_(arena.schedule.calls.at(&at_bound)), places_(places_of(kernels)), end_(end) {
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const NodeId id = static_cast<NodeId>(i);
      const Node& n = graph_.nodes[i];
      if (n.op == Op::result) {
        results_[n.args[0]].push_back(id);
        const Interval& at = when(n.args[0]);
        Interval& made = made_.emplace(whole(id), Interval{INT32_MAX, -1}).first->second;
        made.first = std::min(made.first, at.first);
        made.last = std::max(made.last, at.last);
      } else if (means<Body>(n.op)) {
        for (NodeId a : n.args) last_read_[whole(a)] = std::max(last_read_[whole(a)], when(id).last);
      } else if (n.op == Op::constant) {
        slot_of_[id] = new_slot(SlotKind::constant, id, "");
        program_.slots.back().value = *n.attrs.value;
      }
    }
  }

  /// The program's own graph.
  std::vector<Step> run() {
    setup_end_ = arena_.setup_end;
    give_inputs();
    give_states();
    give_outputs();
    return steps();
  }
  /// A body: where its inputs are, and where its outputs go (-1: they are there already).
  std::vector<Step> run_body(const std::vector<int64_t>& inputs, const std::vector<int64_t>& targets) {
    for (size_t i = 0; i < inputs.size(); ++i) slot_of_[graph_.inputs[i]] = inputs[i];
    for (size_t o = 0; o < targets.size(); ++o) {
      const NodeId id = graph_.outputs[o].node;
      if (targets[o] < 0) continue;
      if (may_be_written(id) && arena_.aligned(targets[o])) slot_of_[whole(id)] = targets[o];
      else late_.push_back({id, targets[o]});
    }
    return steps();
  }

 private:
  const Graph &symbolic_, &graph_;
  Arena& arena_;
  Program& program_;
  const std::vector<NodeId>& calls_;
  std::vector<Place> places_;
  int end_;                                        // when the last step of this level is over
  int setup_end_ = 0;                              // of this level; what is made before it is made once
  std::map<NodeId, int64_t> slot_of_;              // of wholes
  std::map<std::pair<NodeId, NodeId>, int64_t> parts_;   // slots of values within a whole
  std::map<NodeId, int> last_read_;                // of wholes
  std::map<NodeId, Interval> made_;                // wholes that calls write
  std::map<NodeId, std::vector<NodeId>> results_;  // of calls
  std::vector<std::pair<NodeId, int64_t>> late_;   // value, slot: copied after the last step
  std::map<NodeId, int64_t> kept_;                 // what late copies read of leaves: a copy from before the first step
  std::vector<Step> before_;
  std::map<NodeId, size_t> lifetime_of_;           // of wholes in the arena; those that took the place of another have its

  const Interval& when(NodeId call) const { return arena_.when.at({&graph_, call}); }
  NodeId whole(NodeId id) const { return places_[static_cast<size_t>(id)].whole; }
  bool is_leaf(NodeId whole) const { return !made_.count(whole); }
  // Is the value all of what owns its memory?
  bool fills(NodeId id) const { return graph_.type(id).bytes() == graph_.type(whole(id)).bytes(); }
  // Loops and branches have places of their own for their results.
  bool of_control(NodeId whole) const { return graph_.at(whole).op == Op::result && is_control_flow(graph_.at(graph_.at(whole).args[0]).op); }
  bool is_made_once(NodeId whole) const { return !is_leaf(whole) && made_.at(whole).first < setup_end_; }
  // Can kernels of this level write the value into a slot that comes from elsewhere?
  bool may_be_written(NodeId id) const { return !is_leaf(whole(id)) && fills(id) && !slot_of_.count(whole(id)) && !of_control(whole(id)) && !is_made_once(whole(id)); }

  int64_t new_slot(SlotKind kind, NodeId value, std::string name) {
    return arena_.new_slot(kind, symbolic_.type(value), std::move(name));
  }

  // The slot of a value whose whole has one.
  int64_t slot(NodeId id) {
    const int64_t base = slot_of_.at(whole(id));
    if (fills(id)) return base;
    const auto [it, fresh] = parts_.emplace(std::pair{whole(id), id}, -1);
    if (fresh) {
      it->second = new_slot(program_.slots[static_cast<size_t>(base)].kind, id, "");
      program_.slots.back().offset = places_[static_cast<size_t>(id)].offset;
      program_.slots.back().parent = base;
    }
    return it->second;
  }

  void give_inputs() {
    std::map<NodeId, std::string> states;
    for (const State& s : graph_.states) states[s.input] = s.name;
    for (NodeId id : graph_.inputs) {
      const bool state = states.count(id) > 0;
      slot_of_[id] = new_slot(state ? SlotKind::state : SlotKind::input, id, state ? states[id] : graph_.at(id).attrs.name);
      if (!state) program_.inputs.push_back(slot_of_[id]);
    }
    for (const State& s : graph_.states) program_.states.push_back(slot_of_.at(s.input));
  }

  // May the new value of a state take its slot from the first step that writes it?
  bool in_place(const State& s) const {
    // An output or another state that shows the old value needs it until the end.
    for (NodeId r : graph_.roots())
      if (whole(r) == s.input) return false;
    const int made = made_.at(whole(s.output)).first, last = last_read_.count(s.input) ? last_read_.at(s.input) : -1;
    if (last != made) return last < made;
    return overwrites(s.output, s.input, Overwriting::elements_or_rows);
  }
  // Where the value is made, does the kernel that reads `old` there for the last time allow its memory for it?
  enum class Overwriting { rows,
                           elements_or_rows };
  bool overwrites(NodeId made, NodeId old, Overwriting how) const {
    if (graph_.at(made).op != Op::result || whole(made) != made || is_control_flow(graph_.at(graph_.at(made).args[0]).op)) return false;
    const NodeId call = graph_.at(made).args[0];
    const Node& n = graph_.at(call);
    const auto out = static_cast<tile::BufferId>(n.args.size()) + static_cast<tile::BufferId>(graph_.at(made).attrs.index[0]);
    const auto allows = [&](tile::BufferId in) {
      const std::vector<const tile::Kernel*>& planned = arena_.schedule.planned.at({&graph_, call});
      return (how == Overwriting::elements_or_rows && overwrites_elements(*arena_.schedule.lowered.at({&graph_, call}), in, out)) ||
             std::all_of(planned.begin(), planned.end(), [&](const tile::Kernel* k) { return overwrites_rows(*k, in, out).has_value(); });
    };
    for (size_t a = 0; a < n.args.size(); ++a) {
      if (whole(n.args[a]) != old || planted(Fault::state_in_place)) continue;
      if (n.args[a] != old || !allows(static_cast<tile::BufferId>(a))) return false;
    }
    return true;
  }
  void give_states() {
    for (const State& s : graph_.states) {
      if (s.output == s.input) continue;
      if (may_be_written(s.output) && in_place(s)) slot_of_[whole(s.output)] = slot_of_.at(s.input);
      else late_.push_back({s.output, slot_of_.at(s.input)});
    }
  }

  void give_outputs() {
    for (const NamedOutput& o : graph_.outputs) {
      const int64_t to = new_slot(SlotKind::output, o.node, o.name);
      program_.outputs.push_back(to);
      if (is_leaf(whole(o.node))) before_.push_back(Copy{slot(o.node), to});
      else if (may_be_written(o.node)) slot_of_[whole(o.node)] = to;
      else late_.push_back({o.node, to});
    }
  }

  // A value of the arena that the kernel which makes `w` reads for the last time, and whose place it may take; -1: none.
  NodeId dying_at(NodeId w, const std::function<int(NodeId)>& last_of) const {
    if (graph_.at(w).op != Op::result || whole(w) != w || is_symbolic(symbolic_.type(w).shape) || arena_.is_reused_later(graph_.type(w).bytes())) return -1;
    const Interval& now = made_.at(w);
    for (NodeId a : graph_.at(graph_.at(w).args[0]).args) {
      const auto it = lifetime_of_.find(a);
      if (it == lifetime_of_.end() || last_of(a) != now.first || arena_.lifetimes[it->second].last != now.first || now.last != now.first) continue;
      if (graph_.type(a) == graph_.type(w) && overwrites(w, a, Overwriting::rows)) return a;
    }
    return -1;
  }

  std::vector<Step> steps() {
    std::set<NodeId> until_end;
    for (const auto& [value, to] : late_) until_end.insert(whole(value));
    const auto last_of = [&](NodeId w) { return until_end.count(w) ? end_ : std::max(made_.at(w).last, last_read_.count(w) ? last_read_.at(w) : -1); };
    const auto is_kept = [&](NodeId w) { return is_made_once(w) && last_of(w) >= setup_end_; };
    for (const auto& [w, made] : made_)
      if (!slot_of_.count(w) && !of_control(w) && is_kept(w)) {
        slot_of_[w] = new_slot(SlotKind::kept, w, "");
      } else if (!slot_of_.count(w) && !of_control(w)) {
        const NodeId old = dying_at(w, last_of);
        const size_t place = old >= 0 ? lifetime_of_.at(old) : arena_.lifetimes.size();
        lifetime_of_[w] = place;
        if (old >= 0) {
          slot_of_[w] = slot_of_.at(old), arena_.lifetimes[place].last = last_of(w);
          lifetime_of_.erase(old);   // for one alone
          continue;
        }
        arena_.lifetimes.push_back({round_up(graph_.type(w).bytes(), 64), made.first, last_of(w)});
        arena_.slots.push_back(slot_of_[w] = new_slot(SlotKind::arena, w, ""));
      }
    // States that swap need their old values out of the way first: copies between states go through the arena. (A body
    // writes no input.)
    for (const auto& [value, to] : late_)
      if (is_leaf(whole(value)) && program_.slots[static_cast<size_t>(to)].kind == SlotKind::state) {
        const int64_t place = arena_.new_place(symbolic_.type(value), 0, end_);
        before_.push_back(Copy{slot(value), place});
        kept_[value] = planted(Fault::states_swapped) ? slot(value) : place;
      }
    std::vector<Step> run = std::move(before_);
    for (NodeId call : calls_) {
      const Node& n = graph_.at(call);
      const bool once = when(call).first < setup_end_;
      std::vector<Step>& out = once ? program_.setup : run;
      int last = when(call).last;   // of what it makes
      for (NodeId r : results_of(call)) last = std::max(last, last_of(whole(r)));
      if (once) last = std::min(last, setup_end_ - 1);   // what lives longer is kept
      if (n.op == Op::scan) scan(call, n, last, out);
      else if (n.op == Op::while_loop) while_loop(call, n, last, out);
      else if (n.op == Op::cond) cond(call, n, last, out);
      else out.push_back(Launch{arena_.schedule.images.at({&graph_, call}), operands(call)});
      for (NodeId r : results_of(call))
        if (once && of_control(r) && is_kept(r)) {   // its own places are in the arena
          const int64_t kept = new_slot(SlotKind::kept, r, "");
          out.push_back(Copy{std::exchange(slot_of_[r], kept), kept});
        }
    }
    if (planted(Fault::late_copy)) return run;
    for (const auto& [value, to] : late_) run.push_back(Copy{kept_.count(value) ? kept_.at(value) : slot(value), to});
    return run;
  }

  std::vector<NodeId> results_of(NodeId call) const { return results_.count(call) ? results_.at(call) : std::vector<NodeId>{}; }
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

  // --- loops and branches ---
  Level body(std::shared_ptr<const Graph> Attrs::*which, NodeId call) { return Level(*(symbolic_.at(call).attrs.*which), *(graph_.at(call).attrs.*which), arena_, when(call).last); }
  void give_results(NodeId call, const std::vector<int64_t>& slots) {
    for (NodeId r : results_of(call)) slot_of_[r] = slots[static_cast<size_t>(graph_.at(r).attrs.index[0])];
  }

  void scan(NodeId call, const Node& n, int last, std::vector<Step>& out) {
    const Graph& inner = *symbolic_.at(call).attrs.body;
    const std::vector<Type>& types = symbolic_.at(call).type.results;
    const size_t carries = static_cast<size_t>(n.attrs.index[0]), scanned = static_cast<size_t>(n.attrs.index[1]);
    const int64_t steps = n.attrs.limit[0], first = when(call).first;
    const bool backward = !n.attrs.stride.empty() && n.attrs.stride[0] < 0;
    if (steps == 0) {   // the carries as they are, and empty stacks
      std::vector<int64_t> results;
      for (const Type& t : types) results.push_back(arena_.new_place(t, static_cast<int>(first), last));
      for (size_t k = 0; k < carries; ++k) out.push_back(Copy{slot(n.args[k]), results[k]});
      return give_results(call, results);
    }
    const int64_t symbol = symbol_factor(symbolic_.at(call).attrs.limit[0]);
    const bool reversed = backward && symbol == 0;   // where the first step is known, its slots say so
    Loop loop{program_.loops++, steps, {}, symbol, backward && symbol > 0};
    std::vector<Step> after_step;
    std::vector<int64_t> inputs, targets(inner.outputs.size(), -1), results(inner.outputs.size(), -1);
    for (size_t k = 0; k < carries; ++k) {
      const Type& type = symbolic_.type(n.args[k]);
      if (symbol > 0) {   // which of two places would be the last depends on the run
        targets[k] = arena_.new_place(type, static_cast<int>(first), when(call).last);
        inputs.push_back(results[k] = arena_.new_place(type, static_cast<int>(first), last));
        out.push_back(Copy{slot(n.args[k]), inputs[k]});
        after_step.push_back(Copy{targets[k], inputs[k]});
        continue;
      }
      const int64_t bytes = graph_.type(n.args[k]).bytes(), stride = round_up(bytes, 64);
      // The stacks of this carry, before or after each step, are all its places but one.
      int64_t before = -1, after = -1;
      for (size_t o = carries; o < inner.outputs.size() && bytes > 0 && bytes == stride; ++o) {
        if (inner.outputs[o].node == inner.inputs[k] && before < 0) before = static_cast<int64_t>(o);
        if (inner.outputs[o].node == inner.outputs[k].node && after < 0 && results[o] < 0) after = static_cast<int64_t>(o);
      }
      const bool history = before >= 0 || after >= 0;
      const int64_t entries = history ? steps + 1 : 2, start = history && backward ? steps : 0, step = history && backward ? -1 : 1;
      const int64_t buffer = arena_.new_place({DType::u8, {entries, stride}, {}}, static_cast<int>(first), last);
      inputs.push_back(arena_.slice_of(buffer, type, stride, loop.id, start, step, entries));
      targets[k] = arena_.slice_of(buffer, type, stride, loop.id, (start + step + entries) % entries, step, entries);
      out.push_back(Copy{slot(n.args[k]), arena_.sub_range(buffer, type, start * stride)});
      results[k] = arena_.sub_range(buffer, type, floor_mod(start + step * (steps - planted(Fault::carry_entry)), entries) * stride);
      for (const auto& [o, offset] : {std::pair{before, int64_t{backward != planted(Fault::history_offset)}}, {after, int64_t{backward == planted(Fault::history_offset)}}})
        if (o >= 0) results[static_cast<size_t>(o)] = arena_.sub_range(buffer, types[static_cast<size_t>(o)], offset * stride);
    }
    const auto slice = [&](int64_t whole, Type type) {
      type.shape.erase(type.shape.begin());
      return arena_.slice_of(whole, type, arena_.at_bound(type).bytes(), loop.id, reversed && !planted(Fault::slices_start) ? steps - 1 : 0, reversed ? -1 : 1, steps);
    };
    std::vector<Step> before_step;
    for (size_t i = carries; i < n.args.size(); ++i) {
      int64_t at = slot(n.args[i]);
      if (i < carries + scanned) {
        at = slice(at, symbolic_.type(n.args[i]));
        if (!arena_.aligned(at)) {
          const int64_t place = arena_.new_place(inner.type(inner.inputs[i]), static_cast<int>(first), when(call).last);
          before_step.push_back(Copy{at, place});
          at = place;
        }
      }
      inputs.push_back(at);
    }
    for (size_t o = carries; o < results.size(); ++o)
      if (results[o] < 0) {
        results[o] = arena_.new_place(types[o], static_cast<int>(first), last);
        targets[o] = slice(results[o], types[o]);
      }
    loop.steps = std::move(before_step);
    std::vector<Step> inside = body(&Attrs::body, call).run_body(inputs, targets);
    if (planted(Fault::slice_copied_late)) std::swap(loop.steps, inside);
    for (auto* more : {&inside, &after_step}) std::move(more->begin(), more->end(), std::back_inserter(loop.steps));
    out.push_back(std::move(loop));
    give_results(call, results);
  }

  void while_loop(NodeId call, const Node& n, int last, std::vector<Step>& out) {
    const size_t carries = static_cast<size_t>(n.attrs.index[0]);
    std::vector<int64_t> inputs, next;
    for (size_t i = 0; i < n.args.size(); ++i) {
      inputs.push_back(i < carries ? arena_.new_place(symbolic_.type(n.args[i]), when(call).first, last) : slot(n.args[i]));
      if (i >= carries) continue;
      next.push_back(arena_.new_place(symbolic_.type(n.args[i]), when(call).first, when(call).last));
      out.push_back(Copy{slot(n.args[i]), inputs[i]});
    }
    While loop{inputs[0], body(&Attrs::body, call).run_body(inputs, next)};
    for (size_t k = 0; k < carries - (planted(Fault::while_carry) && carries > 2); ++k) loop.steps.push_back(Copy{next[k], inputs[k]});
    out.push_back(std::move(loop));
    inputs.resize(carries);
    give_results(call, inputs);
  }

  void cond(NodeId call, const Node& n, int last, std::vector<Step>& out) {
    std::vector<int64_t> inputs, results;
    for (size_t i = 1; i < n.args.size(); ++i) inputs.push_back(slot(n.args[i]));
    for (const Type& t : symbolic_.at(call).type.results) results.push_back(arena_.new_place(t, when(call).first, last));
    Branch branch{slot(n.args[0]), body(&Attrs::body, call).run_body(inputs, results), {}};
    branch.no = body(&Attrs::otherwise, call).run_body(inputs, results);
    if (planted(Fault::branches_swapped)) std::swap(branch.yes, branch.no);
    out.push_back(std::move(branch));
    give_results(call, results);
  }
};

}  // namespace

void assemble(const Graph& kernels, const Graph& at_bound, Schedule schedule, Once once, Reuse reuse, Program& program) {
  Arena arena{program, schedule, reuse, {}, 0, {}, {}, {}};
  if (once == Once::what_does_not_change) arena.once = unchanging_calls(kernels);
  std::vector<NodeId>& calls = schedule.calls.at(&at_bound);
  std::stable_partition(calls.begin(), calls.end(), [&](NodeId call) { return arena.once.count(call) > 0; });
  const int end = arena.number(at_bound, 0);
  for (NodeId call : arena.once) arena.setup_end = std::max(arena.setup_end, arena.when.at({&at_bound, call}).last + 1);
  program.steps = Level(kernels, at_bound, arena, end).run();
  arena.finish();
}

}  // namespace quern
