// Sums in order, of kernels with roles: what all instances of a role put together for others to get, and the adding of it to memory.
// A box has a turn, a number in the device's memory: 0, or 1 more than the number of the tile, along the axis summed over, that has
// added last. Who has a neighbour before it waits for that one's; who has none behind it puts 0 back, so that the next launch finds it so.
// All launches of a module share these: none begins before the one before is done (KernelImage::alone).
// A tile waits for earlier ones alone, whose blocks run: as many blocks as fit at once are launched, and each has its tiles in order.
#include <algorithm>

#include <fmt/format.h>

#include "codegen/cuda/emitter.h"
#include "ir/support/fault.h"

namespace quern::cuda {

using namespace tile;

// Rings one after the other; of a slot all tiles, and behind all rings the vectors, which need not lie at multiples of 1024.
void Emitter::lay_out_rings() {
  const auto is_vector = [](const Value& v) { return v.axes.size() < 2; };
  for (size_t c = 0; c < rings_.size(); ++c) {
    Ring& r = rings_[c];
    int64_t slot = 0;
    for (const Value& v : phase_->channels[c].parts) {
      r.at.push_back(shared_bytes_ + slot);
      slot += is_vector(v) ? 0 : round_up(part(v).bytes(), 1024);
    }
    r.bytes.assign(r.at.size(), slot);
    r.size = r.depth * slot;
    shared_bytes_ += r.copies * r.size;
  }
  for (size_t c = 0; c < rings_.size(); ++c)
    for (size_t n = 0; n < rings_[c].at.size(); ++n)
      if (const Value& v = phase_->channels[c].parts[n]; is_vector(v)) {
        QN_CHECK(rings_[c].copies == 1, "no vectors are put");
        rings_[c].at[n] = shared_bytes_, rings_[c].bytes[n] = round_up(part(v).bytes(), 128);
        shared_bytes_ += rings_[c].depth * rings_[c].bytes[n];
      }
}
std::string Emitter::slot(int channel, size_t part, const std::string& number, int64_t offset) const {
  const Ring& r = rings_[static_cast<size_t>(channel)];
  return fmt::format("{} * {} + {}", number, r.bytes[part], r.at[part] + offset);
}
// Of the ring that an instance has for itself, where it puts now; early parts lie where their step does.
std::string Emitter::own_slot(int channel, size_t part, int64_t offset) const {
  const Ring& r = rings_[static_cast<size_t>(channel)];
  return fmt::format("ring{0} + {1} * {2} + {3}", channel, r.early < 0 ? fmt::format("slot{}", channel) : "step", r.bytes[part], r.at[part] - r.at[0] + offset);
}
// The parts of a slot on their way to memory, each column of 128 bytes by itself.
void Emitter::send_parts(const char* how, int channel, const std::vector<Store>& stores, const std::function<std::string(size_t part, int64_t offset)>& at) {
  for (size_t n = 0; n < stores.size(); ++n) {
    const Part p = part(phase_->channels[static_cast<size_t>(channel)].parts[n]);
    for (int64_t x = 0; x < p.columns; ++x)
      line(fmt::format("{}({}, {}{});", how, tensor_map(stores[n].buffer, stores[n].index, p, false), at(n, x * p.rows * p.row_bytes), corner(stores[n].index, p, x)));
  }
  line("qn_sending();");
}

// Where an instance puts what others get, or has some steps alone, numbers in rings follow from one count of steps.
void Emitter::find_counted(const Role& r) {
  counted_.clear(), once_.clear(), counted_in_ = nullptr;
  bool wanted = r.steps;
  for (const Stmt& s : r.body) {
    const auto* q = std::get_if<Seq>(&s.node);
    if (!q) continue;
    for (const Stmt& inner : q->body) {
      const auto* in = std::get_if<InRole>(&inner.node);
      const auto* g = in ? std::get_if<Get>(&in->node) : nullptr;
      const auto* p = in ? std::get_if<Put>(&in->node) : nullptr;
      if (p && rings_[static_cast<size_t>(p->channel)].putters) wanted = true, counted_.insert(p->channel);
      if (g) counted_.insert(g->channel);
    }
    QN_CHECK(!wanted || !counted_in_, "one loop of a role puts what others get");
    if (wanted) counted_in_ = q;
  }
  if (!wanted) return counted_.clear();
  const auto power = [](int64_t n) { return (n & (n - 1)) == 0; };
  QN_CHECK(power(r.count) && std::ranges::all_of(counted_, [&](int c) { return power(rings_[static_cast<size_t>(c)].depth); }), "steps are counted by powers of two");
  for (const Stmt& s : r.body)
    if (const auto* in = std::get_if<InRole>(&s.node))
      if (const auto* g = std::get_if<Get>(&in->node); g && phase_->claimed && rings_[static_cast<size_t>(g->channel)].depth == 1) once_.insert(g->channel);
}

// The first role claims, the others are told; a number past the last is told, too. The last claim of a launch puts the counter back.
void Emitter::open_claimed(const Role& r) {
  const bool claims = &r == &phase_->roles[0], counts = !counted_.empty();
  if (!counts) line(fmt::format("u32 told = {};", claims ? 1 : 0));
  open(claims ? "for (int item = blockIdx.x;;)" : "for (;;)");
  line(fmt::format("qn_wait_for(ring + {}, {});", claims_ + (claims ? 8 : 0), counts ? "steps >> 31" : "told"));
  line(counts ? "steps ^= 1u << 31;" : "told ^= 1;");
  if (claims) {
    line(fmt::format("qn_tell(ring + {}, item);", claims_ + 16));
    line(fmt::format("qn_release(ring + {});", claims_));
  } else {
    line(fmt::format("const int item = qn_told(ring + {});", claims_ + 16));
    if (!only_moves(r)) line("__syncwarp();");
    line(fmt::format("{}qn_release(ring + {});", only_moves(r) ? "" : "if ((tid & 31) == 0) ", claims_ + 8));
  }
  line("if (item >= items) break;");
}
void Emitter::claim() {
  line("const u32 claimed = atomicAdd(&qn_claims, 1u);");
  line("if (claimed == items - 1) qn_claims = 0;");
  line("item = gridDim.x + claimed;");
}

// Behind the release of all that get it; a warp at a time says that its part is there.
void Emitter::put_part(const Put& p) {
  const Channel& c = phase_->channels[static_cast<size_t>(p.channel)];
  const Ring& r = rings_[static_cast<size_t>(p.channel)];
  QN_CHECK(counted_.count(p.channel), "a loop puts what others get, one a step");
  const std::string put = fmt::format("(step % {})", r.depth);
  line(fmt::format("qn_wait_for(ring + {0} + 8 * {1}, step / {2} & 1 ^ 1);", r.barriers + 8 * r.depth, put, r.depth));
  for (size_t n = 0; n < p.values.size(); ++n) {
    const Part part = this->part(c.parts[n]);
    const Value& v = value(p.values[n]);
    QN_CHECK(fragments_.count(p.values[n]) || v.dtype != DType::f32, "a part of a tile is one as products leave it");
    std::string at = "ring + " + slot(p.channel, n, put);
    int64_t columns = 0;
    for (AxisId a : v.axes) {
      const bool down = lies_within(k_, a, part.outer);
      QN_CHECK(down == (k_.axes[static_cast<size_t>(a)].spread.warps == 4), "rows of a part are rows of its slot");
      if (!down) columns = place(a).tile;
      const AxisId whole = down ? part.outer : part.inner;
      if (a != whole && place(a).tile != place(whole).tile) at += fmt::format(" + ({} - {}) * {}", place(a).start, place(whole).start, down ? part.row_bytes : part.rows * part.size);
    }
    QN_CHECK(part.row_bytes == 128 && columns * part.size % 128 == 0, "a part has rows of 128 bytes");
    line(fmt::format("qn_put_{}<{}, {}>({}, {}, qn_here(tid));", v.dtype == DType::f32 ? "sums" : "packed", part.rows, columns, at, name(p.values[n])));
  }
  line("qn_fence();");
  line("__syncwarp();");
  line(fmt::format("if ((tid & 31) == 0) qn_release(ring + {} + 8 * {});", r.barriers, put));
}

void Emitter::in_role(const Add& a) {
  const Ring& r = rings_[static_cast<size_t>(a.channel)];
  const Place& over = place(a.over);
  // The boxes: tiles of all axes in their places but those of the parts.
  std::set<int> axes;
  for (const Store& s : a.stores)
    for (const BoxIndex& b : s.index) b.index.collect_axes(axes);
  for (const Value& part : phase_->channels[static_cast<size_t>(a.channel)].parts)
    for (AxisId x : part.axes) axes.erase(x);
  std::string box = "0";
  int64_t boxes = 1;
  for (AxisId x : axes) {
    const int64_t tiles = ceil_div(place(x).extent, place(x).tile);
    box = fmt::format("({}) * {} + {} / {}", box, tiles, place(x).start, place(x).tile);
    boxes = checked_mul(boxes, tiles);
  }
  const int number = turns_++;
  helpers_ += fmt::format("__device__ u32 qn_turns{}[{}];\n", number, boxes);
  // Whether a tile of the axis has this step, too.
  const auto has_step = [&](const std::string& tile) {
    const Places before = places_;
    places_[static_cast<size_t>(a.over)].start = fmt::format("({} * {})", tile, over.tile);
    std::string out = fmt::format("{0} >= 0 && {0} < columns", tile);
    for (AxisId x : loops_) {
      const Axis& axis = k_.axes[static_cast<size_t>(x)];
      if (axis.from) out += fmt::format(" && {} >= {}", place(x).start, begin_of(x));
      if (axis.to) out += fmt::format(" && {} < (ix)({})", place(x).start, bound(*axis.to, true));
    }
    places_ = before;
    return out;
  };
  open("");
  line(fmt::format("const int column = {} / {}, before = column {} 1, behind = column {} 1;", over.start, over.tile, phase_->backward ? '+' : '-', phase_->backward ? '-' : '+'));
  line(fmt::format("u32* const turn = qn_turns{} + ({});", number, box));
  const std::string now = fmt::format("now{}", a.channel);
  const auto got = [&](size_t part, int64_t offset) { return "ring + " + slot(a.channel, part, now, offset); };
  open(fmt::format("if ({})", has_step("before")));
  if (!planted(Fault::turn_not_waited_for)) line("qn_await_turn(turn, before + 1);");
  send_parts("qn_add_box", a.channel, a.stores, got);
  close();
  open("else");
  send_parts("qn_send", a.channel, a.stores, got);
  close();
  line("qn_room<0>();");
  line(fmt::format("qn_release(ring + {} + 8 * {});", r.barriers + 8 * r.depth, now));
  line("qn_sent();");
  line(fmt::format("qn_pass_turn(turn, {} ? column + 1 : 0);", has_step("behind")));
  close();
}

}  // namespace quern::cuda
