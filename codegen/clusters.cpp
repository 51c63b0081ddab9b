// See clusters.h. What a launch touches are ranges of memory: two launches keep their order where ranges overlap that one of them writes.
// A range that is read must be what an earlier launch wrote as a whole, or nothing that any of them wrote.
#include "codegen/clusters.h"

#include <algorithm>
#include <optional>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "passes/tile/gpu_cost.h"
#include "passes/tile/overwrite.h"
#include "passes/tile/sequence.h"

namespace quern {
namespace {

constexpr int64_t kMostThreads = 256;      // of a block: with more, a thread may lack registers that the kernels have alone
constexpr size_t kMostPhases = 24, kLookBehind = 8;
constexpr double kLeastGain = 0.5;         // microseconds
constexpr int64_t kClusters[] = {1, 8, 16};
constexpr double kInRoles = 2;             // microseconds of a kernel that is not looked into

/// One launch, as it is weighed.
struct Node {
  int64_t image = -1;
  std::string why;                         // it stays alone; "": it may be joined
  struct Access {
    int64_t base, offset, bytes;           // which memory
    Member::Operand operand;                       // as a member's parameter
    int64_t slot;                          // that is all of it
    bool written;
  };
  std::vector<Access> accesses;
  GpuWork work;
  double alone = kInRoles, edge = kLaunchMicroseconds;   // microseconds
  std::vector<char> follows;               // which of those before it it must
};

bool overlap(const Node::Access& a, const Node::Access& b) { return a.base == b.base && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes; }
bool conflict(const Node& a, const Node& b) {
  return std::any_of(a.accesses.begin(), a.accesses.end(), [&](const Node::Access& x) {
    return std::any_of(b.accesses.begin(), b.accesses.end(), [&](const Node::Access& y) { return (x.written || y.written) && overlap(x, y); });
  });
}

// Which launches follow which. One that follows a single other, which no other follows directly, while nothing runs beside either of them,
// begins while that one ends (runtime/cuda/recording.h).
void connect(std::vector<Node>& nodes) {
  const size_t n = nodes.size();
  std::vector<size_t> level(n), width(n + 1), readers(n), before(n, n);
  std::vector<std::vector<char>> behind(n, std::vector<char>(n));   // also by way of others
  for (size_t i = 0; i < n; ++i) {
    nodes[i].follows.resize(i);
    size_t direct = 0;
    for (size_t m = i; m-- > 0;) {
      if (!(nodes[i].follows[m] = conflict(nodes[m], nodes[i])) || behind[i][m]) continue;
      ++direct, ++readers[m], before[i] = m;
      level[i] = std::max(level[i], level[m] + 1);
      behind[i][m] = 1;
      for (size_t x = 0; x < m; ++x) behind[i][x] |= behind[m][x];
    }
    if (direct != 1) before[i] = n;
    ++width[level[i]];
  }
  for (size_t i = 0; i < n; ++i)
    if (const size_t m = before[i]; m < n && readers[m] == 1 && width[level[m]] == 1 && width[level[i]] == 1) nodes[i].edge = kBesideMicroseconds;
}

bool overwrites_its_rows(const tile::Kernel& k, const Launch& l) {
  for (tile::BufferId in = 0; in < k.params(); ++in)
    for (tile::BufferId out = 0; out < k.params(); ++out)
      if (l.slots[static_cast<size_t>(in)] == l.slots[static_cast<size_t>(out)] && overwrites_rows(k, in, out)) return true;
  return false;
}

class Former {
 public:
  Former(Program& program, CompileReport& report, std::vector<int64_t>& bounds) : program_(program), report_(report), bounds_(bounds) {}

  void run() {
    visit(program_.steps);
    drop_unused();
  }

 private:
  Program& program_;
  CompileReport& report_;
  std::vector<int64_t>& bounds_;

  const tile::Kernel& planned(int64_t image) const { return report_.planned[static_cast<size_t>(image)]; }
  const std::string& name(const Node& n) const { return planned(n.image).name; }

  void visit(std::vector<Step>& steps) {
    std::vector<Step> out;
    for (size_t i = 0; i < steps.size();) {
      if (auto* loop = std::get_if<Loop>(&steps[i])) {
        if (auto joined = whole_loop(*loop)) {
          out.push_back(std::move(*joined));
        } else {
          visit(loop->steps);
          out.push_back(std::move(steps[i]));
        }
        ++i;
        continue;
      }
      if (auto* loop = std::get_if<While>(&steps[i])) visit(loop->steps);
      if (auto* branch = std::get_if<Branch>(&steps[i])) visit(branch->yes), visit(branch->no);
      size_t end = i;
      std::vector<Node> nodes;
      for (; end < steps.size() && std::holds_alternative<Launch>(steps[end]); ++end) nodes.push_back(node(std::get<Launch>(steps[end]), -1));
      if (nodes.empty()) {
        out.push_back(std::move(steps[i++]));
        continue;
      }
      connect(nodes);
      std::vector<Step> launches(std::make_move_iterator(steps.begin() + static_cast<int64_t>(i)), std::make_move_iterator(steps.begin() + static_cast<int64_t>(end)));
      straight(nodes, launches, 0, nodes.size(), out);
      i = end;
    }
    steps = std::move(out);
  }

  // --- launches ---
  Node node(const Launch& l, int64_t loop) const {
    Node n;
    n.image = l.images[0];
    const tile::Kernel& k = planned(n.image);
    const auto symbolic = [](const auto& x) { return x.symbol > 0; };
    if (!k.phases[0].roles.empty()) n.why = "it has roles";
    else if (l.images.size() > 1 || std::any_of(k.axes.begin(), k.axes.end(), symbolic) || std::any_of(k.buffers.begin(), k.buffers.end(), symbolic)) n.why = "its size is the run's";
    else if (k.phases.size() != 1) n.why = "it has several phases";
    else if (overwrites_its_rows(k, l)) n.why = "a result lies where a row did that it has read";   // its threads meet in between
    for (size_t o = 0; o < l.slots.size(); ++o) {
      Node::Access a{0, 0, 0, {}, l.slots[o], k.buffers[o].kind == tile::BufferKind::out};
      if (!resolve(a, loop) && n.why.empty()) n.why = "an operand has another place in each step of a loop around";
      n.accesses.push_back(a);
    }
    if (!n.why.empty()) return n;
    n.work = gpu_work(k);
    n.alone = gpu_microseconds({&n.work}, kMultiprocessors, 0);
    if (n.work.threads > kMostThreads) n.why = fmt::format("its blocks have {} threads", n.work.threads);
    return n;
  }
  // Where a slot's memory is; of a slice in the loop, all that its steps have.
  bool resolve(Node::Access& a, int64_t loop) const {
    const auto at = [&](int64_t s) -> const Slot& { return program_.slots[static_cast<size_t>(s)]; };
    if (const Slot& s = at(a.slot); s.loop >= 0) {
      if (s.loop != loop || s.offset != 0 || s.stride != s.bytes() || at(s.parent).bytes() != s.entries * s.stride) return false;
      a.operand = {0, s.first, s.step, s.entries};
      a.slot = s.parent;
    }
    a.bytes = at(a.slot).bytes();
    int64_t s = a.slot;
    for (; at(s).parent >= 0; s = at(s).parent) {
      if (at(s).loop >= 0) return false;
      a.offset += at(s).offset;
    }
    a.base = at(s).kind == SlotKind::arena ? -1 : s;
    if (a.base < 0) a.offset += at(s).offset;
    return true;
  }

  // --- how long ---
  // Phases between two barriers: each launch behind all that it must follow.
  static std::vector<std::vector<size_t>> levels(const std::vector<Node>& nodes, size_t from, size_t to) {
    std::vector<size_t> level(to - from);
    std::vector<std::vector<size_t>> out;
    for (size_t n = from; n < to; ++n) {
      for (size_t m = from; m < n; ++m)
        if (nodes[n].follows[m]) level[n - from] = std::max(level[n - from], level[m - from] + 1);
      out.resize(std::max(out.size(), level[n - from] + 1));
      out[level[n - from]].push_back(n);
    }
    return out;
  }
  static double together(const std::vector<Node>& nodes, const std::vector<std::vector<size_t>>& levels, int64_t cluster) {
    int64_t threads = 32;
    for (const auto& level : levels)
      for (size_t n : level) threads = std::max(threads, nodes[n].work.threads);
    double total = 0;
    for (const auto& level : levels) {
      std::vector<const GpuWork*> work;
      for (size_t n : level) work.push_back(&nodes[n].work);
      total += (cluster > 1 ? kClusterBarrierMicroseconds : kBlockBarrierMicroseconds) + gpu_microseconds(work, cluster, threads);
    }
    return total;
  }
  // Of launches `first` to `last`, where `from` to `to` (none where these are equal) are one that takes so long.
  static double apart(const std::vector<Node>& nodes, size_t first, size_t last, size_t from, size_t to, double joined) {
    std::vector<double> done(last, 0);
    double end = 0;
    for (size_t n = first; n < last; ++n) {
      const bool inside = n >= from && n < to;
      double start = 0;
      for (size_t x = inside ? from : n; x < (inside ? to : n + 1); ++x)
        for (size_t m = first; m < (inside ? from : n); ++m)
          if (nodes[x].follows[m]) start = std::max(start, done[m]);
      const double over = start + (inside ? kLaunchMicroseconds + joined : nodes[n].edge + nodes[n].alone);
      if (inside) std::fill(done.begin() + static_cast<int64_t>(from), done.begin() + static_cast<int64_t>(to), over), n = to - 1;
      else done[n] = over;
      end = std::max(end, over);
    }
    return end;
  }

  // --- choices ---
  struct Choice {
    double gain = 0, before = 0;
    size_t from = 0, to = 0;
    int64_t cluster = 0;
  };
  // Does every launch read what others of them wrote as they wrote it? In a loop also what the step before left.
  static std::string partly_read(const std::vector<Node>& nodes, size_t from, size_t to, bool loop) {
    std::vector<const Node::Access*> written;
    for (int pass = 0; pass < 1 + loop; ++pass)
      for (size_t n = from; n < to; ++n) {
        for (const Node::Access& a : nodes[n].accesses) {
          if (a.written) continue;
          const auto last = std::find_if(written.rbegin(), written.rend(), [&](const Node::Access* w) { return overlap(a, *w); });
          if (last != written.rend() && ((*last)->offset != a.offset || (*last)->bytes != a.bytes)) return "it reads a part of what another one writes";
        }
        for (const Node::Access& a : nodes[n].accesses)
          if (a.written) written.push_back(&a);
      }
    return "";
  }
  static bool may_join(const std::vector<Node>& nodes, size_t from, size_t to) {
    return std::all_of(nodes.begin() + static_cast<int64_t>(from), nodes.begin() + static_cast<int64_t>(to), [](const Node& n) { return n.why.empty(); });
  }
  void straight(std::vector<Node>& nodes, std::vector<Step>& launches, size_t first, size_t last, std::vector<Step>& out) {
    Choice best;
    for (size_t from = first; from < last; ++from)
      for (size_t to = from + 2; to <= std::min(last, from + kMostPhases) && may_join(nodes, from, to); ++to) {
        if (!partly_read(nodes, from, to, false).empty()) break;
        const auto phases = levels(nodes, from, to);
        const size_t end = std::min(last, to + kLookBehind);
        const double before = apart(nodes, from, end, from, from, 0);
        for (int64_t cluster : kClusters)
          if (const double gain = before - apart(nodes, from, end, from, to, together(nodes, phases, cluster)); gain > std::max(best.gain * 1.02, kLeastGain)) best = {gain, before, from, to, cluster};
      }
    std::optional<Launch> joined;
    if (best.cluster) joined = join(nodes, best.from, best.to, 0, best.cluster, best.gain);
    if (!joined) {
      for (size_t n = first; n < last; ++n) {
        report_.clusters.push_back(fmt::format("{} is a launch of its own: {}", name(nodes[n]), nodes[n].why.empty() ? "a cluster would take longer" : nodes[n].why));
        out.push_back(std::move(launches[n]));
      }
      return;
    }
    if (best.from > first) straight(nodes, launches, first, best.from, out);
    out.push_back(std::move(*joined));
    if (best.to < last) straight(nodes, launches, best.to, last, out);
  }

  // Why a loop stays one goes to the report where it is a loop of launches alone.
  std::optional<Launch> whole_loop(const Loop& loop) {
    if (loop.symbol || loop.backward || loop.count < 1 || loop.steps.empty() || loop.steps.size() > kMostPhases) return std::nullopt;
    std::vector<Node> nodes;
    for (const Step& s : loop.steps) {
      const auto* launch = std::get_if<Launch>(&s);
      if (!launch) return std::nullopt;
      nodes.push_back(node(*launch, loop.id));
    }
    const auto no = [&](const std::string& why) {
      report_.clusters.push_back(fmt::format("the loop of {} and {} behind it stays a loop: {}", name(nodes[0]), nodes.size() - 1, why));
      return std::nullopt;
    };
    for (const Node& n : nodes)
      if (!n.why.empty()) return no(fmt::format("of {}, {}", name(n), n.why));
    if (const std::string why = partly_read(nodes, 0, nodes.size(), true); !why.empty()) return no(why);
    connect(nodes);
    if (std::all_of(nodes.begin() + 1, nodes.end(), [](const Node& n) { return n.edge < kLaunchMicroseconds; })) nodes[0].edge = kBesideMicroseconds;   // one line
    const auto phases = levels(nodes, 0, nodes.size());
    Choice best;
    const double before = static_cast<double>(loop.count) * apart(nodes, 0, nodes.size(), 0, 0, 0);
    for (int64_t cluster : kClusters)
      if (const double gain = before - kLaunchMicroseconds - static_cast<double>(loop.count) * together(nodes, phases, cluster); gain > std::max(best.gain * 1.02, kLeastGain)) best = {gain, before, 0, nodes.size(), cluster};
    if (!best.cluster) return no("a cluster would take longer");
    auto out = join(nodes, 0, nodes.size(), loop.count, best.cluster, best.gain);
    return out ? std::move(out) : no(nodes[0].why);
  }

  std::optional<Launch> join(std::vector<Node>& nodes, size_t from, size_t to, int64_t steps, int64_t cluster, double gain) {
    std::vector<const Node::Access*> memories;
    const auto phases = levels(nodes, from, to);
    const auto members = [&](const std::vector<tile::Kernel>& kernels) {
      std::vector<Member> out;
      for (const auto& level : phases)
        for (size_t n : level) {
          Member m{&kernels[static_cast<size_t>(nodes[n].image)], {}, n != level[0]};
          for (const Node::Access& a : nodes[n].accesses) {
            const auto same = std::find_if(memories.begin(), memories.end(), [&](const Node::Access* b) { return a.base == b->base && a.offset == b->offset && a.bytes == b->bytes; });
            m.operands.push_back(a.operand);
            m.operands.back().memory = same - memories.begin();
            if (same == memories.end()) memories.push_back(&a);
          }
          out.push_back(std::move(m));
        }
      return out;
    };
    std::string why;
    auto planned = in_sequence(members(report_.planned), steps, cluster, why);
    auto lowered = in_sequence(members(report_.lowered), steps, cluster, why);
    if (!planned || !lowered) {
      for (size_t n = from; n < to; ++n) nodes[n].why = why;
      return std::nullopt;
    }
    tile::verify(planned->kernel);
    Launch out{{}, {}};
    for (int64_t m : planned->memories) out.slots.push_back(memories[static_cast<size_t>(m)]->slot);
    std::vector<std::string> names;
    for (size_t n = from; n < to; ++n) names.push_back(name(nodes[n]));
    report_.clusters.push_back(fmt::format("{} are {} of one launch, {} with {} barriers: about {:.1f} us less", fmt::join(names, ", "), steps ? fmt::format("phases of all {} steps", steps) : "phases",
                                           cluster > 1 ? fmt::format("a cluster of {} blocks", cluster) : "one block", phases.size() - (steps ? 0 : 1), gain));
    const std::string structure = tile::structure(planned->kernel);
    const auto same = std::find_if(report_.planned.begin(), report_.planned.end(), [&](const tile::Kernel& k) { return k.cluster && tile::structure(k) == structure; });
    out.images = {same - report_.planned.begin()};
    if (same != report_.planned.end()) return out;
    report_.planned.push_back(std::move(planned->kernel));
    report_.lowered.push_back(std::move(lowered->kernel));
    report_.plan_reasons.push_back("");
    bounds_.push_back(0);
    return out;
  }

  // --- kernels ---
  static void each_launch(std::vector<Step>& steps, const std::function<void(Launch&)>& f) {
    for (Step& s : steps) {
      if (auto* l = std::get_if<Launch>(&s)) f(*l);
      if (auto* l = std::get_if<Loop>(&s)) each_launch(l->steps, f);
      if (auto* w = std::get_if<While>(&s)) each_launch(w->steps, f);
      if (auto* b = std::get_if<Branch>(&s)) each_launch(b->yes, f), each_launch(b->no, f);
    }
  }
  void drop_unused() {
    std::set<int64_t> used;
    for (auto* steps : {&program_.setup, &program_.steps})
      each_launch(*steps, [&](Launch& l) { used.insert(l.images.begin(), l.images.end()); });
    const auto keep = [&](auto& list) {
      auto kept = std::remove_reference_t<decltype(list)>{};
      for (int64_t i : used) kept.push_back(std::move(list[static_cast<size_t>(i)]));
      list = std::move(kept);
    };
    keep(report_.planned), keep(report_.lowered), keep(report_.plan_reasons), keep(bounds_);
    for (auto* steps : {&program_.setup, &program_.steps})
      each_launch(*steps, [&](Launch& l) {
        for (int64_t& i : l.images) i = std::distance(used.begin(), used.find(i));
      });
  }
};

}  // namespace

void form_clusters(Program& program, CompileReport& report, std::vector<int64_t>& bounds) { Former(program, report, bounds).run(); }

}  // namespace quern
