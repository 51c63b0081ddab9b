// The matrix instructions of a GPU as data: what they multiply and where their fragments lie. The planner chooses among
// rows of the table; the emitter spells the row it is given. A row describes mma.sync (operands in registers, one warp)
// and wgmma (operands in shared memory through descriptors, four warps, asynchronous) alike.
#pragma once
#include <optional>
#include <span>
#include <string_view>

#include "ir/tile/kernel.h"

namespace quern::tile {

struct Atom {
  std::string_view name;         // as printed in a plan: "m16n8k16"
  Precision precision;
  int m, n, k;                   // one instruction's rows, columns, summed length
  int least_arch;                // 75, 80, 90
  int warps;                     // that issue it together, along the rows
  bool asynchronous;             // completes at an await; operands are read from shared memory
  int a_registers, b_registers;  // 32-bit registers a thread gives; 0: a descriptor of shared memory
  bool emitted;                  // codegen/cuda spells it; the planner takes no other
};

std::span<const Atom> atoms();
std::optional<Atom> find_atom(std::string_view name, Precision precision);
/// The widest one of the precision that the architecture has and the emitter spells, of those that wait for their result.
std::optional<Atom> best_atom(Precision precision, int arch);

/// Where the rows and the columns of its sum lie, for a block tile of rows × columns over `row_warps` × `column_warps`
/// groups of warps (PTX ISA, "matrix fragments"): row = 16·warp + 8·half + lane/4, column = 8·step + 2·(lane%4) + parity.
Spread rows_of(const Atom& atom, int64_t row_warps, int64_t warps_at);
Spread columns_of(const Atom& atom, int64_t column_warps, int64_t warps_at);
/// Where the summed elements of a left operand in registers lie: 2·(lane%4) + parity of 16 bits, lane%4 of 32.
Spread depth_of(const Atom& atom);

}  // namespace quern::tile
