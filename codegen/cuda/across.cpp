// Sums over threads that have parts of them: over a warp's lanes by shuffles, over warps through shared memory.
#include <fmt/format.h>

#include "codegen/cuda/emitter.h"
#include "codegen/cuda/spell.h"

namespace quern::cuda {

using namespace tile;

namespace {

constexpr int64_t kExchangeBytes = 32 << 10, kScatterBytes = 64 << 10;   // of shared memory for sums over warps

}  // namespace

void Emitter::across(ValueId v, Op combine, int64_t bits, Result result) {
  const DType dtype = value(v).dtype;
  const int64_t n = registers(value(v).axes, places_);
  const std::string x = name(v), type = register_type(dtype), carrier = !is_float(dtype) && size_of(dtype) < 4 ? "int" : type;
  for (int64_t b = 1; b < 32; b *= 2) {
    if (!(bits & b)) continue;
    line("#pragma unroll");
    line(fmt::format("for (int r = 0; r < {}; ++r) {}[r] = {};", n, x,
                     apply(combine, dtype, dtype, {x + "[r]", fmt::format("({})__shfl_xor_sync(~0u, ({}){}[r], {})", type, carrier, x, b)})));
  }
  const int64_t warps = bits >> 5;
  if (!warps) return;
  const int64_t low = warps & -warps, copies = warps / low + 1;
  QN_CHECK((copies & (copies - 1)) == 0, "a sum over warps lies along neighbouring bits");
  const int64_t each = threads_ * static_cast<int64_t>(std::max<int64_t>(4, size_of(dtype)));
  const bool scattered = result == Result::scattered && n * each <= kScatterBytes;
  const int64_t chunk = scattered ? n : std::clamp<int64_t>(kExchangeBytes / each, 1, n);
  shared_bytes_ = std::max(shared_bytes_, chunk * each);
  const auto sum = [&](const std::string& target, const std::string& reg) {
    open("");
    line(fmt::format("{} s = e{}[({}) * {} + (tid & ~{})];", type, v, reg, threads_, warps << 5));
    line("#pragma unroll");
    line(fmt::format("for (int w = 1; w < {}; ++w) s = {};", copies, apply(combine, dtype, dtype, {"s", fmt::format("e{}[({}) * {} + (tid & ~{} | w * {})]", v, reg, threads_, warps << 5, low << 5)})));
    line(fmt::format("{} = s;", target));
    close();
  };
  line(fmt::format("{0}* const e{1} = ({0}*)(shared + {2});", type, v, scratch_bytes_));
  for (int64_t from = 0; from < n; from += chunk) {
    const int64_t here = std::min(chunk, n - from);
    line(sync_);
    line("#pragma unroll");
    line(fmt::format("for (int r = 0; r < {}; ++r) e{}[r * {} + tid] = {}[r + {}];", here, v, threads_, x, from));
    line(sync_);
    if (scattered) break;
    line("#pragma unroll");
    open(fmt::format("for (int r = 0; r < {}; ++r)", here));
    sum(fmt::format("{}[r + {}]", x, from), "r");
    close();
  }
  if (!scattered) return;
  // What this thread keeps: register r of the new places is register `old` of the former ones.
  const Places before = places_;
  scatter(v, warps);
  line(fmt::format("{} s{}[{}];", type, x, registers(value(v).axes, places_)));
  names_[v] = "s" + x;
  Registers r;
  over(value(v).axes, places_, -1, r, [&] {
    Registers old;
    for (AxisId a : value(v).axes) old[a] = places_[static_cast<size_t>(a)].registers == before[static_cast<size_t>(a)].registers ? r[a] : fmt::format("(h{} + {})", a, r[a]);
    const std::string spelled = at(v, old, before);
    sum(at(v, r, places_), spelled.substr(spelled.find('[') + 1, spelled.rfind(']') - spelled.find('[') - 1));
  });
}

// Gives each of the warps (bits) that summed `v` a share of its registers: whole vectors first, then parts of them.
void Emitter::scatter(ValueId v, int64_t warps) {
  const int64_t low = warps & -warps;
  int64_t copies = warps / low + 1, bit = low << 5;
  std::map<AxisId, int64_t> parts;
  for (const bool whole : {true, false})
    for (AxisId a : value(v).axes) {
      const Place& p = place(a);
      const int64_t have = p.registers / parts.emplace(a, 1).first->second;
      const int64_t take = std::min(copies, whole ? std::max<int64_t>(have / p.vector, 1) : have);
      parts[a] *= take;
      copies /= take;
    }
  for (const auto& [a, n] : parts) {
    if (n == 1) continue;
    Place& p = places_[static_cast<size_t>(a)];
    const int64_t kept = p.registers / n;
    line(fmt::format("const int h{} = (tid / {} % {}) * {};", a, bit, n, kept));
    const std::string moved = local(p, fmt::format("h{}", a));
    line(fmt::format("const int u{} = {} + {};", a, p.base.empty() ? "0" : p.base, moved));
    p.base = fmt::format("u{}", a);
    p.registers = kept;
    p.vector = std::min(p.vector, kept);
    scattered_bits_[a] = (n - 1) * bit;
    bit *= n;
  }
}

}  // namespace quern::cuda
