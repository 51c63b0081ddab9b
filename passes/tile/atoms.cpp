// See atoms.h. Source of the shapes: PTX ISA 8.x, mma.sync and wgmma.mma_async.
#include "passes/tile/atoms.h"

#include <array>

namespace quern::tile {

static constexpr std::array kAtoms = {
    Atom{"m64n256k16", Precision::bf16, 64, 256, 16, 90, 4, true, 0, 0, true},
    Atom{"m64n192k16", Precision::bf16, 64, 192, 16, 90, 4, true, 0, 0, true},
    Atom{"m64n128k16", Precision::bf16, 64, 128, 16, 90, 4, true, 0, 0, true},
    Atom{"m64n64k16", Precision::bf16, 64, 64, 16, 90, 4, true, 0, 0, true},
    Atom{"m64n256k16", Precision::f16, 64, 256, 16, 90, 4, true, 0, 0, true},
    Atom{"m64n192k16", Precision::f16, 64, 192, 16, 90, 4, true, 0, 0, true},
    Atom{"m64n128k16", Precision::f16, 64, 128, 16, 90, 4, true, 0, 0, true},
    Atom{"m64n64k16", Precision::f16, 64, 64, 16, 90, 4, true, 0, 0, true},
    Atom{"m64n256k8", Precision::tf32, 64, 256, 8, 90, 4, true, 0, 0, true},
    Atom{"m64n192k8", Precision::tf32, 64, 192, 8, 90, 4, true, 0, 0, true},
    Atom{"m64n128k8", Precision::tf32, 64, 128, 8, 90, 4, true, 0, 0, true},
    Atom{"m64n64k8", Precision::tf32, 64, 64, 8, 90, 4, true, 0, 0, true},
    Atom{"m64n192k32", Precision::f8, 64, 192, 32, 90, 4, true, 0, 0, true},
    Atom{"m64n128k32", Precision::f8, 64, 128, 32, 90, 4, true, 0, 0, true},
    Atom{"m64n64k32", Precision::f8, 64, 64, 32, 90, 4, true, 0, 0, true},
    Atom{"m16n8k16", Precision::bf16, 16, 8, 16, 80, 1, false, 4, 2, true},
    Atom{"m16n8k16", Precision::f16, 16, 8, 16, 80, 1, false, 4, 2, true},
    Atom{"m16n8k8", Precision::tf32, 16, 8, 8, 80, 1, false, 4, 2, true},
    Atom{"m16n8k8", Precision::tf32x3, 16, 8, 8, 80, 1, false, 4, 2, true},   // three times
    Atom{"m16n8k8", Precision::f16, 16, 8, 8, 75, 1, false, 2, 1, true},
};

std::span<const Atom> atoms() { return kAtoms; }

std::optional<Atom> find_atom(std::string_view name, Precision precision) {
  for (const Atom& a : kAtoms)
    if (a.name == name && a.precision == precision) return a;
  return std::nullopt;
}

std::optional<Atom> best_atom(Precision precision, int arch) {
  for (const Atom& a : kAtoms)   // widest first
    if (a.emitted && !a.asynchronous && a.precision == precision && a.least_arch <= arch) return a;
  return std::nullopt;
}

Spread rows_of(const Atom& atom, int64_t row_warps, int64_t warps_at) { return {8, 2, row_warps * atom.warps, warps_at, 1}; }
Spread columns_of(const Atom&, int64_t column_warps, int64_t warps_at) { return {4, 0, column_warps, warps_at, 2}; }
Spread depth_of(const Atom& atom) { return {4, 0, 1, 0, atom.k / 8}; }

}  // namespace quern::tile
