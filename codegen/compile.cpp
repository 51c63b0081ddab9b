// Graph → Program; see compile.h. Kernels of equal structure are compiled once.
#include "codegen/compile.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <functional>
#include <map>
#include <set>
#include <unordered_map>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "codegen/assemble.h"
#include "codegen/cache.h"
#include "codegen/clusters.h"
#include "codegen/image.h"
#include "codegen/stored.h"
#include "emitters.h"
#include "ir/op.h"
#include "ir/support/fault.h"
#include "ir/support/hash.h"
#include "ir/symbol.h"
#include "ir/text.h"
#include "passes/graph/chunks.h"
#include "passes/graph/panels.h"
#include "passes/graph/product_parts.h"
#include "passes/plan/order.h"
#include "passes/tile/bounds.h"
#include "passes/tile/fast.h"
#include "passes/tile/join.h"
#include "passes/tile/lower.h"
#include "passes/tile/nested.h"
#include "passes/tile/plan.h"
#include "passes/tile/roles_nested.h"
#include "passes/work.h"

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;
double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// --- images ---

std::string cache_key(const tile::Kernel& planned, const Target& target, bool want_source) {
  const std::string version = target.kind == TargetKind::cpu ? cpu::compiler_version() : cuda::compiler_version();
  return fmt::format("quern image 6 " QN_EMITTERS "\n{}\n{}\n{}\n{}", to_string(target), version, want_source, tile::structure(planned));
}

std::vector<KernelImage> compile_all(const std::vector<tile::Kernel>& kernels, const CompileOptions& options, Cache& cache, CompileReport& report) {
  std::vector<KernelImage> images(kernels.size());
  std::vector<std::string> keys(kernels.size());
  std::vector<size_t> missing;
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
    std::vector<KernelImage> made = cpu::compile(wanted, options.target.arch, options.want_source, &report.parts);
    for (size_t m = 0; m < missing.size(); ++m) images[missing[m]] = std::move(made[m]);
  } else {
    std::vector<KernelImage> made;
    for (size_t i : missing) made.push_back(cuda::emit(kernels[i], options.target.arch));
    for (std::string& note : cuda::compile(made, options.target.arch)) report.notes.push_back(std::move(note));
    for (size_t m = 0; m < missing.size(); ++m) {
      images[missing[m]] = std::move(made[m]);
      if (!options.want_source) images[missing[m]].source.clear();
    }
  }
  for (size_t i : missing) cache.put(keys[i], save_image(images[i]));
  report.compiled += static_cast<int64_t>(missing.size());
  report.cached += static_cast<int64_t>(kernels.size() - missing.size());
  return images;
}

// --- what a launch costs ---

// Coordinates that a loop over the axis walks, in the mean over the axis that its bounds follow.
double walked(const tile::Kernel& k, tile::AxisId id) {
  const tile::Axis& axis = k.axes[static_cast<size_t>(id)];
  std::set<int> follows;
  for (const auto& bound : {axis.from, axis.to})
    if (bound) bound->collect_axes(follows);
  if (follows.size() != 1) return static_cast<double>(axis.extent);
  const int64_t points = k.axes[static_cast<size_t>(*follows.begin())].extent;
  double sum = 0;
  for (int64_t at = 0; at < points; ++at) {
    const auto bound = [&](const std::optional<Index>& b, int64_t otherwise) { return b ? std::clamp<int64_t>(b->evaluate([&](int) { return at; }), 0, axis.extent) : otherwise; };
    sum += static_cast<double>(std::max<int64_t>(bound(axis.to, axis.extent) - bound(axis.from, 0), 0));
  }
  return points ? sum / static_cast<double>(points) : 0;
}

double points(const tile::Kernel& k, const std::set<tile::AxisId>& axes) {
  double n = 1;
  for (tile::AxisId a : axes) n *= walked(k, a);
  return n;
}

double flops_of(const tile::Kernel& k, const tile::Block& block) {
  double total = 0;
  for (const tile::Stmt& s : block) {
    const auto axes_of = [&](tile::ValueId v) {
      const std::vector<tile::AxisId>& axes = k.values[static_cast<size_t>(v)].axes;
      return std::set<tile::AxisId>(axes.begin(), axes.end());
    };
    if (const auto* map = std::get_if<tile::MapTile>(&s.node)) {
      total += static_cast<double>(std::count_if(map->expr.begin(), map->expr.end(), [](const tile::ScalarNode& n) { return n.kind == tile::ScalarNode::Kind::op; })) * points(k, axes_of(map->out));
    } else if (const auto* mma = std::get_if<tile::Mma>(&s.node)) {
      std::set<tile::AxisId> axes = axes_of(mma->out);
      axes.insert(mma->axes.begin(), mma->axes.end());
      total += 2 * points(k, axes);
    } else if (const auto* seq = std::get_if<tile::Seq>(&s.node)) {
      total += flops_of(k, seq->body);
    } else if (const auto* each = std::get_if<tile::Each>(&s.node)) {
      total += flops_of(k, each->body);
    }
  }
  return total;
}

void describe(KernelImage& image, const tile::Kernel& planned, const tile::Kernel& lowered) {
  const bool bounded = std::any_of(planned.axes.begin(), planned.axes.end(), [](const tile::Axis& a) { return a.from || a.to; });
  const tile::Kernel meant = bounded ? bounds(join(lowered)) : lowered;   // what a mask leaves
  image.flops = 0;
  for (const tile::Phase& p : meant.phases) image.flops += flops_of(meant, p.body);
  if (planned.steps >= 0) image.flops *= static_cast<double>(planned.axes[static_cast<size_t>(planned.steps)].extent);
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

// --- kernels with the symbol ---

// What they are planned for, rising: 1, powers of two from 8, and the upper bound. Equal plans share an image.
std::vector<int64_t> planned_sizes(const Symbol& symbol) {
  std::vector<int64_t> out;
  for (int64_t n = 1; n < symbol.high; n = std::max<int64_t>(8, 2 * n))
    if (n >= symbol.low) out.push_back(n);
  out.push_back(symbol.high);
  return out;
}

// The kernel's structure and plan, whatever the symbol's bound.
std::string plan_text(tile::Kernel kernel) {
  for (tile::Axis& a : kernel.axes)
    if (a.symbol) a.extent = a.symbol;
  for (tile::Buffer& b : kernel.buffers)
    if (b.symbol) b.shape[static_cast<size_t>(b.along)] = b.symbol;
  return tile::structure(kernel);
}

// What a package and the runtime take.
void refuse_depth(const Graph& kernels, int depth = 0) {
  for (size_t i = 0; i < kernels.nodes.size(); ++i) {
    const Node& n = kernels.nodes[i];
    if (!is_control_flow(n.op)) continue;
    if (depth == kMaxNesting) throw Error(Code::nested_too_deep, fmt::format("`{}` stands inside {} loops and branches: no more may be nested", name_of(n.op), depth), kernels.where(static_cast<NodeId>(i))).with_help("make one loop of two by multiplying their steps, or use vmap for the inner ones");
    for (const auto& body : {n.attrs.body, n.attrs.otherwise})
      if (body) refuse_depth(*body, depth + 1);
  }
}

// Does a value that kernels share have rows in front of the symbol? Those lie apart as at the program's bound.
bool has_rows(const Graph& body) {
  const auto rows = [&](NodeId id) { return rows_before_symbol(body.type(id).shape) > 1; };
  return std::any_of(body.inputs.begin(), body.inputs.end(), rows) || std::any_of(body.outputs.begin(), body.outputs.end(), [&](const NamedOutput& o) { return rows(o.node); });
}

// Why roles do not take a kernel in whose loops products are computed.
constexpr int64_t kAnySize = 64;   // of a symbol
std::string not_in_roles(const Node& call) {
  const auto has = [&](bool (*what)(const Node&)) { return std::count_if(call.attrs.body->nodes.begin(), call.attrs.body->nodes.end(), what); };
  const auto products = has([](const Node& n) { return means<Contract>(n.op); });
  if (products == 0 || (products == 1 && !has([](const Node& n) { return means<Reduce>(n.op); }))) return "";
  const bool symbolic = std::any_of(call.attrs.body->nodes.begin(), call.attrs.body->nodes.end(), [](const Node& n) { return is_symbolic(n.type.shape); });
  const tile::Kernel lowered = lower(symbolic ? at_size(*call.attrs.body, kAnySize) : *call.attrs.body, call.attrs.name, 0, 0, 1, Updates::side_by_side);
  if (!has_nested_products(lowered)) return "";
  if (symbolic) return call.attrs.name + ": its size is the run's";
  std::string why;
  return plan_nested_roles(lowered, why) ? "" : fmt::format("{}: {}", call.attrs.name, why);
}

}  // namespace

std::vector<KernelImage> compile_plans(const std::vector<tile::Kernel>& planned, const tile::Kernel& lowered, const Target& target, int64_t size) {
  CompileOptions options;
  options.target = target;
  Cache none("");
  CompileReport unused;
  std::vector<KernelImage> images = compile_all(planned, options, none, unused);
  for (size_t i = 0; i < images.size(); ++i) {
    describe(images[i], planned[i], lowered);
    images[i].bound = size;
  }
  return images;
}

void set_target(PassContext& context, const Target& target, F32Products products) {
  const bool cpu = target.kind == TargetKind::cpu, has_roles = target.kind == TargetKind::cuda && target.arch == "sm_90a";
  // A GPU's products are tiles of a whole block, read through shared memory: one stands in another's loop only in roles, which want its results in f32.
  context.nested_in_roles = has_roles && context.fp == Fp::fast;
  context.nested_products = (cpu && context.fp != Fp::strict) || context.nested_in_roles;
  if (context.nested_in_roles) context.refuses = not_in_roles;
  if (context.long_sum == 0) context.long_sum = kLongSum;
  if (has_roles) {
    context.row_bytes = 16;   // where the copy engine's rows start
    if (context.fp != Fp::strict) context.product_blocks = kProductBlocks;
    if (products != F32Products::f32) {
      context.split_operands = products == F32Products::tf32x3, context.operands_of_bytes = products == F32Products::f8;
      context.large_product = context.split_operands ? kSplitProduct : kTurnedProduct;
    }
  }
  if (!cpu) {
    context.large_matrix = 0;
    context.op_share = kGpuOpShare;
    if (context.chunk_sums == 0) context.chunk_sums = kChunkSums;
    return;
  }
  if (context.large_matrix == 0) context.large_matrix = kLargeMatrix;
  const CpuArch arch = cpu_arch(target.arch);
  context.lanes = arch.lanes, context.registers = arch.registers;
}

Program compile(const Graph& graph, CompileOptions options, CompileReport* report) {
  CompileReport unused;
  CompileReport& r = report ? *report : unused;
  CompileOptions given = options;   // should setup not fit into the memory limit
  Clock::time_point start = Clock::now();
  const auto lap = [&](const char* phase) {
    r.times.emplace_back(phase, milliseconds_since(start));
    start = Clock::now();
  };

  if (options.plan && !(options.plan->target == options.target))
    throw Error(Code::plan_target, fmt::format("{} is for {}, this is compiled for {}", options.plan->file, to_string(options.plan->target), to_string(options.target))).with_help(fmt::format("tune it on {}, or leave --plan out", to_string(options.target)));

  // A program that was made before.
  Program program;
  program.graph_text = to_string(graph);
  Cache cache(options.use_cache && !any_planted() ? Cache::default_directory() : "");
  std::string unfit = cache.usable() ? unfit_to_store(program.graph_text, options) : "there is no cache";
  const bool whole = unfit.empty();
  const auto take_notes = [&] {
    for (std::string& note : cache.take_notes()) r.notes.push_back(std::move(note));
  };
  const std::string key = whole ? program_key(program.graph_text, options) : "";
  std::optional<Program> stored = whole ? stored_program(cache, key, program.graph_text, r.notes) : std::nullopt;
  take_notes();
  lap("look up");
  if (stored) {
    r.program = "from the cache";
    r.cached += static_cast<int64_t>(stored->images.size());
    return std::move(*stored);
  }

  for (const State& s : graph.states)
    if (is_symbolic(graph.type(s.input).shape)) throw Error(Code::symbol_place, fmt::format("state \"{}\" is {}: a state keeps its size from run to run", s.name, to_string(graph.type(s.input))), graph.where(s.input)).with_help("give the state a constant shape");
  const int64_t bound = graph.symbol ? graph.symbol->high : 0;
  set_target(options.passes, options.target, options.f32_products);
  r.kernels = run_pipeline(graph, options.passes);
  r.notes.insert(r.notes.end(), options.passes.in_memory.begin(), options.passes.in_memory.end());
  refuse_depth(r.kernels);
  r.verdicts = options.passes.verdicts;
  r.notes.insert(r.notes.end(), options.passes.recomputed.begin(), options.passes.recomputed.end());
  for (const auto& t : options.passes.times) r.times.push_back(t);
  start = Clock::now();

  // One image per distinct kernel; those with the symbol are planned for several sizes, the largest first.
  const Graph at_bound = bound ? at_size(r.kernels, bound) : r.kernels, at_one = bound ? at_size(r.kernels, 1) : r.kernels;
  if (graph.symbol) {
    program.size_low = graph.symbol->low, program.size_high = bound;
    program.bounds = planned_sizes(*graph.symbol);
  }
  // The order of steps is chosen for a size between the bounds: memory for the largest, but no copies for the small ones.
  const int64_t middle = std::bit_ceil(static_cast<uint64_t>(std::sqrt(static_cast<double>(program.size_low) * static_cast<double>(program.size_high))));
  std::map<std::string, int64_t> by_plan;
  struct Lowered {   // a region, and its images
    const Graph* body;
    std::vector<int64_t> images;
  };
  std::unordered_multimap<uint64_t, Lowered> by_region;
  std::vector<int64_t> bound_of;   // of each distinct kernel; 0: it has no symbol
  Schedule schedule;
  std::set<const PlanFile::Kernel*> scheduled;   // entries of the plan file that were found
  const auto plan = [&](const tile::Kernel& lowered, std::string& why) {
    if (const PlanFile::Kernel* entry = options.plan ? options.plan->find(structure_hash(lowered)) : nullptr) {
      scheduled.insert(entry);
      return options.plan->apply(*entry, lowered, options.f32_products);
    }
    return options.target.kind == TargetKind::cpu ? plan_cpu(lowered, options.target.arch) : plan_cuda(lowered, options.target.arch, options.f32_products, &why);
  };
  r.lowered.clear();
  r.planned.clear();
  r.plan_reasons.clear();
  // A graph's kernels, and those of the bodies in it.
  const std::function<void(const Graph&, const Graph&, const Graph&)> lower_calls = [&](const Graph& kernels, const Graph& bounded, const Graph& single) {
    for (NodeId call : schedule.calls[&bounded] = order_calls(at_size(kernels, middle))) {
      const Node& n = kernels.at(call);
      if (is_control_flow(n.op)) {
        for (const auto body : {&Attrs::body, &Attrs::otherwise})
          if (n.attrs.*body) lower_calls(*(n.attrs.*body), *(bounded.at(call).attrs.*body), *(single.at(call).attrs.*body));
        continue;
      }
      const auto add_lines = [&](int64_t image, const std::vector<SourceLoc>& lines) {
        auto& sources = r.lowered[static_cast<size_t>(image)].sources;
        for (const SourceLoc& l : lines)
          if (l.line && std::find(sources.begin(), sources.end(), l) == sources.end()) sources.push_back(l);
      };
      const uint64_t hash = n.attrs.body->hash();
      const auto [first, last] = by_region.equal_range(hash);
      if (const auto same = std::find_if(first, last, [&](const auto& made) { return *made.second.body == *n.attrs.body; }); same != last) {
        for (int64_t image : schedule.images[{&bounded, call}] = same->second.images) add_lines(image, n.attrs.body->sources);
        continue;
      }
      const bool symbolic = bound && !(*bounded.at(call).attrs.body == *n.attrs.body);
      const std::vector<int64_t> sizes = symbolic ? program.bounds : std::vector<int64_t>{0};
      std::vector<int64_t>& images = schedule.images[{&bounded, call}];
      images.resize(sizes.size());
      for (size_t s = sizes.size(); s-- > 0;) {
        const bool one = sizes[s] == 1 && !has_rows(*n.attrs.body);   // 1 is no variable
        const Graph& body = one ? *single.at(call).attrs.body : *n.attrs.body;
        tile::Kernel lowered = lower(body, fmt::format("k{}_{}", r.lowered.size(), n.attrs.name), sizes[s], bound, program.size_low, options.target.kind == TargetKind::cpu ? Updates::in_order : Updates::side_by_side);
        tile::verify(lowered);
        std::string why;
        tile::Kernel planned = plan(lowered, why);
        if (options.target.kind == TargetKind::cuda && options.passes.fp == Fp::fast) planned = fast_maps(std::move(planned));
        const auto [it, fresh] = by_plan.emplace(planted(Fault::kernel_key) ? n.attrs.name : plan_text(planned), static_cast<int64_t>(r.lowered.size()));
        images[s] = it->second;
        if (!fresh) {
          add_lines(it->second, lowered.sources);
          continue;
        }
        tile::verify(planned);
        r.planned.push_back(std::move(planned));
        r.plan_reasons.push_back(why);
        r.lowered.push_back(std::move(lowered));
        bound_of.push_back(one ? 0 : sizes[s]);
      }
      by_region.emplace(hash, Lowered{n.attrs.body.get(), images});
    }
  };
  lower_calls(r.kernels, at_bound, at_one);
  if (options.plan)
    for (const PlanFile::Kernel& k : options.plan->kernels)
      if (!scheduled.count(&k)) r.notes.push_back(fmt::format("{}: kernel {} ({}) is none of this program's; its schedule is not used", options.plan->file, k.name, k.structure));
  const bool all_scheduled = !options.plan || scheduled.size() == options.plan->kernels.size();
  lap("lower and plan");

  program.target = options.target;
  for (const auto& [call, of_bounds] : schedule.images) {
    schedule.lowered[call] = &r.lowered[static_cast<size_t>(of_bounds.back())];
    for (int64_t image : of_bounds) schedule.planned[call].push_back(&r.planned[static_cast<size_t>(image)]);
  }
  const bool once = !std::count(options.passes.disabled.begin(), options.passes.disabled.end(), "setup");
  assemble(r.kernels, at_bound, schedule, once ? Once::what_does_not_change : Once::nothing, options.target.kind == TargetKind::cuda && options.passes.memory_limit < 0 ? Reuse::later : Reuse::at_once, program);
  if (options.target.kind == TargetKind::cuda && options.target.arch == "sm_90a" && !std::count(options.passes.disabled.begin(), options.passes.disabled.end(), "clusters")) form_clusters(program, r, bound_of);
  lap("memory plan");

  program.images = compile_all(r.planned, options, cache, r);
  for (size_t i = 0; i < program.images.size(); ++i) {
    describe(program.images[i], r.planned[i], r.lowered[i]);
    program.images[i].bound = bound_of[i];
  }
  lap("images");

  const int64_t temporaries = program.arena_bytes + kept_bytes(program);
  if (options.passes.memory_limit >= 0 && temporaries > options.passes.memory_limit && !program.setup.empty()) {
    given.passes.disabled.push_back("setup");
    CompileReport without;
    program = compile(graph, std::move(given), &without);
    without.notes.push_back(fmt::format("memory limit {} bytes: what setup would keep is computed in every run: {} -> {} bytes", options.passes.memory_limit, temporaries, program.arena_bytes));
    r = std::move(without);
    return program;
  }
  if (options.passes.memory_limit >= 0 && temporaries > options.passes.memory_limit)
    throw Error(Code::out_of_memory, fmt::format("the memory plan has {} bytes of temporaries, the limit is {}", temporaries, options.passes.memory_limit)).with_help("raise the limit: loops and branches, and copies of states, are not recomputed");
  if (whole) unfit = all_scheduled ? store_program(cache, key, program) : "its plan has kernels of other programs";   // whose note would be lost
  r.program = unfit.empty() ? "kept in the cache" : "not kept: " + unfit;
  take_notes();
  lap("keep");
  return program;
}

}  // namespace quern
