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
int64_t Emitter::steps_of(const std::vector<AxisId>& axes) const {
  int64_t steps = 1;
  for (AxisId a : axes) {
    const AxisId around = k_.axes[static_cast<size_t>(a)].within;
    QN_CHECK(around >= 0 && place(around).tile % place(a).tile == 0, "an each of a role walks parts of a tile");
    steps *= place(around).tile / place(a).tile;
  }
  return steps;
}

}  // namespace quern::cuda
