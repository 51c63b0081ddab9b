// Loops over parts of a tile, in roles: unrolled, or every so many of them. What the next part needs from memory is on its way in
// registers of its own while one part is computed.
#include <fmt/format.h>

#include "codegen/cuda/emitter.h"

namespace quern::cuda {

using namespace tile;

std::vector<const Load*> Emitter::loads_ahead(const Block& body) {
  std::vector<const Load*> out;
  for (const Stmt& s : body)
    if (const auto* l = std::get_if<Load>(&s.node); l && l->ahead) out.push_back(l);
  return out;
}
// Where the axes of an each stand in one of its steps.
void Emitter::stand(const std::vector<AxisId>& axes, const std::string& step) {
  int64_t left = steps_of(axes);
  for (AxisId a : axes) {
    const Place &p = place(a), &around = place(k_.axes[static_cast<size_t>(a)].within);
    const int64_t n = around.tile / p.tile;
    left /= n;
    line(fmt::format("const int n{} = {} / {} % {};", a, step, left, n));
    line(fmt::format("const ix {} = {} + n{} * {};", p.start, around.start, a, p.tile));
  }
}
void Emitter::read_ahead(const std::vector<AxisId>& axes, const Block& body, const std::string& step) {
  const std::vector<const Load*> ahead = loads_ahead(body);
  if (ahead.empty()) return;
  open(fmt::format("if (const int next = {}; next < {})", step, steps_of(axes)));
  stand(axes, "next");
  for (const Load* l : ahead) {
    names_[l->out] = fmt::format("next{}", l->out);
    read(*l, places_, vector_axis(l->buffer, l->index, value(l->out).axes, places_, l));
  }
  close();
}
void Emitter::role_each(const std::vector<AxisId>& axes, const Block& body, const std::string& first, int64_t every) {
  const std::vector<const Load*> ahead = loads_ahead(body);
  const int64_t steps = steps_of(axes);
  parts_ = &body;
  for (const Load* l : ahead) define(l->out, places_, "next");
  read_ahead(axes, body, first);
  line(every == 1 ? "#pragma unroll" : "#pragma unroll 1");
  open(fmt::format("for (int step = {}; step < {}; step += {})", first, steps, every));
  stand(axes, "step");
  for (const Load* l : ahead) {
    define(l->out, places_);
    line("#pragma unroll");
    line(fmt::format("for (int r = 0; r < {0}; ++r) v{1}[r] = next{1}[r];", registers(value(l->out).axes, places_), l->out));
  }
  read_ahead(axes, body, fmt::format("step + {}", every));
  for (const Load* l : ahead) names_[l->out] = fmt::format("v{}", l->out);
  for (AxisId a : axes)
    if (place(a).masked) line(fmt::format("if ({} >= {}) continue;", place(a).start, place(a).limit));
  for (const Stmt& s : body)
    if (const auto* l = std::get_if<Load>(&s.node); !l || !l->ahead) std::visit([this](const auto& node) { statement(node); }, s.node);
  close();
}
// What is loaded early: the copy engine brings it while the products before are made, into the slots from which the results go out. A slot
// is free when what was sent from it has been read; sends are read in their order.
void Emitter::find_early(const Role& r, int64_t& barriers) {
  for (const Stmt& s : r.body)
    if (const auto* e = std::get_if<Each>(&s.node))
      for (const Stmt& inner : e->body)
        if (const auto* l = std::get_if<Load>(&inner.node); l && l->early)
          if (Ring& ring = rings_[static_cast<size_t>(sent_over(e->body, *l)->channel)]; ring.early < 0) ring.early = barriers, barriers += ring.copies;
}
void Emitter::ask_early(const Each& e) {
  for (const Stmt& s : e.body) {
    const auto* l = std::get_if<Load>(&s.node);
    if (!l || !l->early) continue;
    const int channel = sent_over(e.body, *l)->channel;
    const Ring& r = rings_[static_cast<size_t>(channel)];
    const Part p = part(phase_->channels[static_cast<size_t>(channel)].parts[0]);
    open("if (tid == 0)");
    line(fmt::format("const u32 full = ring + {} + 8 * self;", r.early));
    line(fmt::format("qn_expect(full, {});", r.depth * p.bytes()));
    for (int64_t step = 0; step < r.depth; ++step) {
      open("");
      stand(e.axes, fmt::format("{}", step));
      line(fmt::format("qn_room<{}>();", r.depth - 1 - step));
      line(fmt::format("qn_fetch(ring{} + {}, {}, full{});", channel, step * r.bytes[0], tensor_map(l->buffer, l->index, p, false), corner(l->index, p, 0)));
      close();
    }
    close();
  }
}
void Emitter::take_early(const Load& l) {
  const int channel = sent_over(*parts_, l)->channel;
  const Ring& r = rings_[static_cast<size_t>(channel)];
  const Part p = part(phase_->channels[static_cast<size_t>(channel)].parts[0]);
  QN_CHECK(p.columns == 1 && p.size == 2 && place(p.outer).tile == 64, "rows of 16-bit floats are loaded early");
  define(l.out, places_);
  line(fmt::format("if (step == 0) qn_wait_for(ring + {} + 8 * self, early{});", r.early, channel));
  line(fmt::format("qn_take_{}<{}>({}, ring{} + step * {}, tid);", name_of(p.value->dtype), p.row_bytes / p.size, name(l.out), channel, r.bytes[0]));
  line(fmt::format("if (step == {}) early{} ^= 1;", r.depth - 1, channel));
}
int64_t Emitter::steps_of(const std::vector<AxisId>& axes) const {
  int64_t steps = 1;
  for (AxisId a : axes) {
    const AxisId around = k_.axes[static_cast<size_t>(a)].within;
    QN_CHECK(around >= 0 && place(around).tile % place(a).tile == 0, "an each of a role walks parts of a tile");
    steps *= place(around).tile / place(a).tile;
  }
  return steps;
}

// Each block leaves its sums where the first ring was, in groups of four registers of all threads, and adds up of all blocks
// the parts that it is dealt.
void Emitter::in_role(const Share& s) {
  const Value& v = value(s.value);
  const int64_t sums = place(v.axes.at(0)).tile * place(v.axes.at(1)).tile / 128, threads = 128 * role_->count;
  QN_CHECK(sums_.size() == 1 && v.dtype == DType::f32 && rings_.at(0).at.at(0) == 0 && sums * threads * 4 <= rings_[0].size, "one sum is shared, which the first ring has room for");
  line(fmt::format("qn_show<{}, {}>(ring, {}, self * 128 + tid);", sums, threads, name(s.value)));
}
void Emitter::in_role(const Deal& d) {
  const int64_t sharers = k_.sharers(*phase_), before = steps_of(d.axes) % sharers;   // of each instance
  role_each(d.axes, d.body, fmt::format("(share + self * {}) % {}", (sharers - before) % sharers, sharers), sharers);
  line("qn_seen();");
}
void Emitter::in_role(const Total& t) {
  PartOfSum p = part_of_sum(t.out, t.arg);
  const int64_t threads = 128 * role_->count;
  line(fmt::format("float s{}[{}];", t.out, p.registers));
  line(fmt::format("qn_total<{}, {}, {}>(s{}, ring + ({}) * {} + (self * 128 + tid) * 16);", k_.sharers(*phase_), p.registers, threads, t.out, p.first, 16 * threads));
  p.first = "0";
  copy_part(t.out, p, fmt::format("s{}", t.out));
}

}  // namespace quern::cuda
