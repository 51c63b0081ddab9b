// Graph → Program; see compile.h. Kernels of equal structure are compiled once. Values get slots: inputs, outputs,
// states and constants their own, all others a place in the arena by their lifetimes.
#include "codegen/compile.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "codegen/cache.h"
#include "codegen/image.h"
#include "ir/op.h"
#include "ir/support/fault.h"
#include "ir/support/hash.h"
#include "ir/text.h"
#include "passes/plan/memory.h"
#include "passes/plan/order.h"
#include "passes/tile/lower.h"
#include "passes/tile/plan.h"

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;
double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// --- images ---

std::string cache_key(const tile::Kernel& planned, const Target& target, bool want_source) {
  const std::string version = target.kind == TargetKind::cpu ? cpu::compiler_version() : cuda::compiler_version();
  return fmt::format("quern image 1\n{}\n{}\n{}\n{}", to_string(target), version, want_source, tile::structure(planned));
}

std::vector<KernelImage> compile_all(const std::vector<tile::Kernel>& kernels, const CompileOptions& options, CompileReport& report) {
  std::vector<KernelImage> images(kernels.size());
  std::vector<std::string> keys(kernels.size());
  std::vector<size_t> missing;
  Cache cache(options.use_cache && !any_planted() ? Cache::default_directory() : "");
  for (size_t i = 0; i < kernels.size(); ++i) {
    keys[i] = cache_key(kernels[i], options.target, options.want_source);
    const auto bytes = cache.get(keys[i]);
    const auto image = bytes ? load_image(*bytes) : std::nullopt;
    if (image) images[i] = *image;
    else missing.push_back(i);
  }
  if (options.target.kind == TargetKind::cpu) {
    std::vector<tile::Kernel> wanted;
    for (size_t i : missing) wanted.push_back(kernels[i]);
    std::vector<KernelImage> made = cpu::compile(wanted, options.target.arch, options.want_source);
    for (size_t m = 0; m < missing.size(); ++m) images[missing[m]] = std::move(made[m]);
  } else {
    for (size_t i : missing) {
      images[i] = cuda::emit(kernels[i], options.target.arch);
      cuda::compile(images[i], options.target.arch);
      if (!options.want_source) images[i].source.clear();
    }
  }
  for (size_t i : missing) cache.put(keys[i], save_image(images[i]));
  for (std::string& note : cache.take_notes()) report.notes.push_back(std::move(note));
  report.compiled += static_cast<int64_t>(missing.size());
  report.cached += static_cast<int64_t>(kernels.size() - missing.size());
  return images;
}

// --- what a launch costs ---

int64_t points(const tile::Kernel& k, std::set<tile::AxisId> axes) {
  int64_t n = 1;
  for (tile::AxisId a : axes) n = checked_mul(n, std::max<int64_t>(k.axes[static_cast<size_t>(a)].extent, 0));
  return n;
}

double flops_of(const tile::Kernel& k, const tile::Block& block, std::set<tile::AxisId> open) {
  double total = 0;
  for (const tile::Stmt& s : block) {
    const auto axes_with = [&](const std::vector<tile::AxisId>& more) {
      std::set<tile::AxisId> axes(more.begin(), more.end());
      return axes;
    };
    if (const auto* map = std::get_if<tile::MapTile>(&s.node)) {
      const int64_t ops = std::count_if(map->expr.begin(), map->expr.end(), [](const tile::ScalarNode& n) { return n.kind == tile::ScalarNode::Kind::op; });
      total += static_cast<double>(ops * points(k, axes_with(k.values[static_cast<size_t>(map->out)].axes)));
    } else if (const auto* mma = std::get_if<tile::Mma>(&s.node)) {
      std::set<tile::AxisId> axes = axes_with(k.values[static_cast<size_t>(mma->out)].axes);
      axes.insert(mma->axes.begin(), mma->axes.end());
      total += 2.0 * static_cast<double>(points(k, axes));
    } else if (const auto* seq = std::get_if<tile::Seq>(&s.node)) {
      total += flops_of(k, seq->body, open);
    } else if (const auto* each = std::get_if<tile::Each>(&s.node)) {
      total += flops_of(k, each->body, open);
    }
  }
  return total;
}

void describe(KernelImage& image, const tile::Kernel& planned, const tile::Kernel& lowered) {
  image.flops = 0;
  for (const tile::Phase& p : lowered.phases) image.flops += flops_of(lowered, p.body, {});
  image.bytes = 0;
  image.operands = planned.params();
  image.outputs = std::count_if(planned.buffers.begin(), planned.buffers.end(), [](const tile::Buffer& b) { return b.kind == tile::BufferKind::out; });
  for (int64_t b = 0; b < planned.params(); ++b) {
    const tile::Buffer& buffer = planned.buffers[static_cast<size_t>(b)];
    image.bytes += static_cast<double>(checked_mul(count(buffer.shape), size_of(buffer.dtype)));
  }
  std::vector<std::string> lines;
  for (const SourceLoc& s : lowered.sources) lines.push_back(to_string(s));
  image.lines = fmt::format("{}", fmt::join(lines, ", "));
}

// Does a nested block read the buffer?
bool reads_inside(const tile::Block& block, tile::BufferId buffer, bool nested) {
  return std::any_of(block.begin(), block.end(), [&](const tile::Stmt& s) {
    if (const auto* load = std::get_if<tile::Load>(&s.node)) return nested && load->buffer == buffer;
    if (const auto* seq = std::get_if<tile::Seq>(&s.node)) return reads_inside(seq->body, buffer, true);
    if (const auto* each = std::get_if<tile::Each>(&s.node)) return reads_inside(each->body, buffer, true);
    return false;
  });
}

// May output `out` of the kernel share memory with input `in`? Only when every instance reads of it exactly the
// elements that it stores, at the top of its block.
bool may_overwrite(const tile::Kernel& k, tile::BufferId in, tile::BufferId out) {
  if (k.phases.size() != 1 || k.buffers[static_cast<size_t>(in)].shape != k.buffers[static_cast<size_t>(out)].shape) return false;
  const tile::Block& block = k.phases[0].body;
  if (reads_inside(block, in, false)) return false;
  const std::vector<Index>* stored = nullptr;
  for (const tile::Stmt& s : block)
    if (const auto* store = std::get_if<tile::Store>(&s.node); store && store->buffer == out) stored = &store->index;
  if (!stored) return false;
  for (const tile::Stmt& s : block) {
    const auto* load = std::get_if<tile::Load>(&s.node);
    if (!load || load->buffer != in) continue;
    for (size_t d = 0; d < stored->size(); ++d)
      if (load->index[d].gather >= 0 || !(load->index[d].index == (*stored)[d])) return false;
  }
  return true;
}

// --- the program ---

class Assembler {
 public:
  Assembler(const Graph& kernels, Program& program) : graph_(kernels), program_(program) {}

  // `calls` in step order; `image` and `lowered` by call.
  void run(const std::vector<NodeId>& calls, const std::map<NodeId, int64_t>& image, const std::map<NodeId, const tile::Kernel*>& lowered) {
    for (size_t i = 0; i < calls.size(); ++i) step_of_[calls[i]] = static_cast<int>(i);
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const Node& n = graph_.nodes[i];
      if (n.op == Op::result) results_[n.args[0]].push_back(static_cast<NodeId>(i));
      if (n.op == Op::call)
        for (NodeId a : n.args) last_read_[a] = std::max(last_read_[a], step_of_.at(static_cast<NodeId>(i)));
    }
    give_leaves();
    give_states(calls, lowered);
    give_outputs();
    give_arena(static_cast<int>(calls.size()));
    for (const Step& s : before_) program_.steps.push_back(s);
    for (NodeId call : calls) program_.steps.push_back(Launch{image.at(call), operands(call)});
    for (const Step& s : after_) program_.steps.push_back(s);
  }

 private:
  const Graph& graph_;
  Program& program_;
  std::map<NodeId, int64_t> slot_of_;              // of values
  std::map<NodeId, int> step_of_, last_read_;
  std::map<NodeId, std::vector<NodeId>> results_;  // of calls
  std::vector<Step> before_, after_;

  int64_t new_slot(SlotKind kind, const Type& type, std::string name) {
    Slot s;
    s.kind = kind;
    s.dtype = type.dtype;
    s.shape = type.shape;
    s.name = std::move(name);
    program_.slots.push_back(std::move(s));
    return static_cast<int64_t>(program_.slots.size() - 1);
  }

  void give_leaves() {
    std::map<NodeId, std::string> states;
    for (const State& s : graph_.states) states[s.input] = s.name;
    for (NodeId id : graph_.inputs) {
      const bool state = states.count(id) > 0;
      slot_of_[id] = new_slot(state ? SlotKind::state : SlotKind::input, graph_.type(id), state ? states[id] : graph_.at(id).attrs.name);
      if (!state) program_.inputs.push_back(slot_of_[id]);
    }
    for (const State& s : graph_.states) program_.states.push_back(slot_of_.at(s.input));
    for (size_t i = 0; i < graph_.nodes.size(); ++i)
      if (graph_.nodes[i].op == Op::constant) {
        slot_of_[static_cast<NodeId>(i)] = new_slot(SlotKind::constant, graph_.nodes[i].type, "");
        program_.slots.back().value = *graph_.nodes[i].attrs.value;
      }
  }

  bool is_leaf(NodeId id) const { return graph_.at(id).op != Op::result; }
  int defined(NodeId id) const { return step_of_.at(graph_.at(id).args[0]); }

  // A state's new value is written in place where its old value has been read by then.
  void give_states(const std::vector<NodeId>& calls, const std::map<NodeId, const tile::Kernel*>& lowered) {
    for (const State& s : graph_.states) {
      if (s.output == s.input) continue;
      const int64_t slot = slot_of_.at(s.input);
      if (!is_leaf(s.output) && !slot_of_.count(s.output)) {
        const int step = defined(s.output), last = last_read_.count(s.input) ? last_read_.at(s.input) : -1;
        bool in_place = last < step;
        if (last == step) {
          const NodeId call = calls[static_cast<size_t>(step)];
          const Node& n = graph_.at(call);
          const tile::BufferId out = static_cast<tile::BufferId>(n.args.size()) + static_cast<tile::BufferId>(graph_.at(s.output).attrs.index[0]);
          in_place = true;
          for (size_t a = 0; a < n.args.size(); ++a)
            if (n.args[a] == s.input) in_place = in_place && (planted(Fault::state_in_place) || may_overwrite(*lowered.at(call), static_cast<tile::BufferId>(a), out));
        }
        // An output or another state that shows the old value needs it until the end.
        for (NodeId r : graph_.roots()) in_place = in_place && r != s.input;
        if (in_place) {
          slot_of_[s.output] = slot;
          continue;
        }
      }
      late_.push_back({s.output, slot});
    }
  }

  void give_outputs() {
    for (const NamedOutput& o : graph_.outputs) {
      const int64_t slot = new_slot(SlotKind::output, graph_.type(o.node), o.name);
      program_.outputs.push_back(slot);
      if (is_leaf(o.node)) before_.push_back(Copy{slot_of_.at(o.node), slot});
      else if (!slot_of_.count(o.node)) slot_of_[o.node] = slot;
      else late_.push_back({o.node, slot});
    }
  }
  std::vector<std::pair<NodeId, int64_t>> late_;   // value, slot: copied after the last launch

  void give_arena(int steps) {
    std::vector<NodeId> values;
    std::vector<Lifetime> lifetimes;
    std::set<NodeId> until_end;
    for (const auto& [value, slot] : late_) until_end.insert(value);
    for (const auto& [call, results] : results_)
      for (NodeId r : results) {
        if (slot_of_.count(r)) continue;
        const int last = until_end.count(r) ? steps : last_read_.count(r) ? last_read_.at(r) : defined(r);
        values.push_back(r);
        lifetimes.push_back({round_up(graph_.type(r).bytes(), 64), defined(r), last});
      }
    // States that swap need their old values out of the way first: copies between states go through the arena.
    std::vector<std::pair<int64_t, int64_t>> leaf_copies;
    for (const auto& [value, slot] : late_)
      if (is_leaf(value)) {
        values.push_back(value);
        lifetimes.push_back({round_up(graph_.type(value).bytes(), 64), 0, steps});
      }
    const MemoryPlan plan = plan_memory(lifetimes);
    program_.arena_bytes = plan.total;
    program_.lower_bound = plan.lower_bound;
    for (size_t i = 0; i < values.size(); ++i) {
      const int64_t slot = new_slot(SlotKind::arena, graph_.type(values[i]), "");
      program_.slots.back().offset = plan.offsets[i];
      if (!is_leaf(values[i])) {
        slot_of_[values[i]] = slot;
      } else {
        before_.push_back(Copy{slot_of_.at(values[i]), slot});
        kept_[values[i]] = planted(Fault::states_swapped) ? slot_of_.at(values[i]) : slot;
      }
    }
    for (const auto& [value, slot] : late_) if (!planted(Fault::late_copy)) after_.push_back(Copy{is_leaf(value) ? kept_.at(value) : slot_of_.at(value), slot});
  }
  std::map<NodeId, int64_t> kept_;

  std::vector<int64_t> operands(NodeId call) const {
    std::vector<int64_t> out;
    const Node& n = graph_.at(call);
    for (NodeId a : n.args) out.push_back(slot_of_.at(a));
    std::vector<int64_t> results(n.type.results.size(), -1);
    for (NodeId r : results_.at(call)) results[static_cast<size_t>(graph_.at(r).attrs.index[0])] = slot_of_.at(r);
    for (int64_t r : results) {
      QN_CHECK(r >= 0, "every result of a kernel call is used");
      out.push_back(r);
    }
    return out;
  }
};

}  // namespace

Program compile(const Graph& graph, CompileOptions options, CompileReport* report) {
  CompileReport unused;
  CompileReport& r = report ? *report : unused;
  Clock::time_point start = Clock::now();
  const auto lap = [&](const char* phase) {
    r.times.emplace_back(phase, milliseconds_since(start));
    start = Clock::now();
  };

  r.kernels = run_pipeline(graph, options.passes);
  r.verdicts = options.passes.verdicts;
  for (const auto& t : options.passes.times) r.times.push_back(t);
  start = Clock::now();

  // One image per distinct kernel.
  const std::vector<NodeId> calls = order_calls(r.kernels);
  std::map<std::string, int64_t> by_structure;
  std::map<NodeId, int64_t> image;
  r.lowered.clear();
  r.planned.clear();
  for (NodeId call : calls) {
    const Node& n = r.kernels.at(call);
    tile::Kernel lowered = lower(*n.attrs.body, fmt::format("k{}_{}", r.lowered.size(), n.attrs.name));
    const auto [it, fresh] = by_structure.emplace(planted(Fault::kernel_key) ? n.attrs.name : tile::structure(lowered), static_cast<int64_t>(r.lowered.size()));
    image[call] = it->second;
    if (!fresh) {
      auto& sources = r.lowered[static_cast<size_t>(it->second)].sources;
      for (const SourceLoc& s : lowered.sources)
        if (std::find(sources.begin(), sources.end(), s) == sources.end()) sources.push_back(s);
      continue;
    }
    tile::verify(lowered);
    r.planned.push_back(options.target.kind == TargetKind::cpu ? plan_cpu(lowered, options.target.arch) : plan_cuda(lowered, options.target.arch, options.f32_products));
    tile::verify(r.planned.back());
    r.lowered.push_back(std::move(lowered));
  }
  lap("lower and plan");

  Program program;
  program.target = options.target;
  program.graph_text = to_string(graph);
  program.images = compile_all(r.planned, options, r);
  for (size_t i = 0; i < program.images.size(); ++i) describe(program.images[i], r.planned[i], r.lowered[i]);
  lap("images");

  std::map<NodeId, const tile::Kernel*> lowered_of;
  for (const auto& [call, i] : image) lowered_of[call] = &r.lowered[static_cast<size_t>(i)];
  Assembler(r.kernels, program).run(calls, image, lowered_of);
  lap("memory plan");
  return program;
}

}  // namespace quern
