// TILE IR: GRAMMAR AND SEMANTICS. One kernel as a small sequential program over tiles (blocks of values).
//
//   kernel   ::= "kernel" name "(" buffer,* ")" "{" axis* ["cluster" "of" number ["seq" axis-name]] phase+ "}"
//   buffer   ::= %name ":" ("in" | "out" | "scratch") dtype "[" extent,* "]"     one extent may be symbolic
//              | %name ":" "view" dtype "[" extent,* "]" "of" %buffer
//   extent   ::= number | [number] "n" "<=" number ["of" room]                   a constant, or so many times the symbol
//   axis     ::= "axis" name "<" extent "by" tile ["from" index] ["to" index] ["within" axis-name] ["lanes"] ["threads" count "@" bit] ["warps" count "@" bit] ["vector" count]
//   phase    ::= ["beside"] "grid" "(" axis-name,* ")" ["mirrored"] block | "work" "(" axis-name,* ")" "in" "groups" "of" number ["backward" | "winding"] ["claimed"] ["shared" "along" axis-name] "{" chan* role+ "}"
//   chan     ::= "chan" "%" name "(" (dtype "[" axis-name,* "]"),* ")" "x" depth
//   role     ::= "role" name ["x" count ("along" axis-name,+ | "in" "turns" | "in" "steps")] ["regs" number] block
//   stmt     ::= %v ":" dtype "[" axis-name,* "]" "=" op | [%v : type,+ "="] "seq" "(" axis-name,* ")" ["carry" "(" (%c ":" type "=" constant),* ")"] block
//              | "each" "(" axis-name,* ")" block | "yield" %v,* | "store" ["stream"] %buffer "[" index,* "]" "=" %v     also gathered
//   op       ::= "load" ["ahead" | "early"] %buffer "[" index,* "]" | "map" ["fast"] "(" scalar-expr ")" "(" %v,* ")" | "reduce<" combine ">" axis-name,+ "(" %v ")"
//              | ["issue"] "mma[" precision ["," atom "x" stages] "]" axis-name,+ "(" %acc "," %a "," %b ")" | "slice" %v
//   in roles ::= "fetch" %c "(" (%buffer box),* ")" | [%v : type,+ "="] "get" %c | "release" %c "@" "s" ["-" number] | "put" %c "(" %v,* ")" | "fence"
//              | "send" %c "to" "(" (%buffer box),* ")" | "await" number | [%v : type,+ "="] "past" "(" axis-name,* ")" block ["else" block] | "turn" | "pass"
//              | "share" %v | "deal" "(" axis-name,* ")" block | %v = "total" %v | "add" %c "to" "(" (%buffer box),* ")" "over" axis-name
//   index    ::= quasi-affine in axis names (+ - * // % by constants), or "%v" (gathered: a tile of integers)
//
// Named axes. A tile's dimensions are *names* of axes; maps and mmas match dimensions by name and broadcast where a
// name is absent, so there is no transpose, reshape or broadcast of tiles: index expressions carry them. An axis
// walks its extent in steps of its tile; inside its loop the axis stands for the block [start, min(start+tile, extent)).
// Coordinates past the extent do not exist: nothing is loaded, summed or stored there. How an emitter achieves that
// (remainder code, masks) is its own affair; tile sizes are therefore part of the plan, and meaning depends on them
// only through the order of sums. An axis `within` another walks the block in which that one stands, in steps of its own
// tile, and has that one's extent and coordinates: loops in levels. An axis `from` x `to` y walks only those of its blocks
// that hold a coordinate c with x <= c < y, where the axes in x stand for the first coordinates of their blocks and those in
// y for their last: what a mask leaves of a row for each block of rows. x and y are sums of multiples of axes that come before, or such over a number.
// Symbol. A symbolic extent is given per run, up to its bound: a kernel is planned for the bound, buffers have the bound's
// memory, and only elements within the run's extents are defined. An element lies where it would if the symbolic extent were
// its room: the program's bound, which a kernel made for a smaller one shares with the others. `symbol<c>` in a map is c times the symbol, as i64.
//
// Sequence. Phases run in order, each sees all effects of those before it. Instances of a grid run in any order;
// no two store one element. `seq` runs its blocks in order, lexicographically over its axes, with carried tiles: they
// start as the constant, and `yield` gives their next values; its results are the last. With no blocks the results are
// the initial constants. A seq whose body itself stores what its carries have been is a running sum: its axes have a
// tile of 1. So does one whose body stores at gathered indices: its steps add to what the steps before have left there. A seq
// without carries only orders its steps; `each` is one whose iterations are independent. Scratch is stored to by tiles in any seq.
// A load outside its buffer reads 0 of the dtype; a store outside does nothing; gathered indices alike. A load sees what
// its instance has stored before.
// reduce combines the tile's elements along the named axes, from the identity. mma: acc + sum over the named axes of
// a*b, precision f64, f32 (fused), tf32 (operands rounded to nearest), tf32x3 (operands are sums of two of tf32, x = big + small; all of their
// product but small*small), bf16, f16 (exact products, accumulated in f32), f8 (exact products of both 8-bit floats, accumulated in f32, of which
// 14 bits are kept: those below are cut off).
// A map's expression uses the graph's elementwise ops, constants, operands (a0, a1 …), axis coordinates as i64, the
// symbol, and random bits; each op rounds to its dtype as in ir/op.h.
//
// Planned forms. `scratch` buffers belong to one grid instance (CUDA: in shared memory). CPU: `lanes` marks the axis whose elements lie across a
// vector's lanes; `load ahead` also asks for what the next grid instance will read there, or, of a scratch, for
// what will be copied there next; `store stream` goes past the caches where whole lines are stored. CUDA: `load ahead` also asks for what the next step of the loop around will read; one block of threads per grid instance; an axis spreads its tile over bits of the lane number
// (`threads`) and of the warp number (`warps`), the rest lies in registers: element ((w * R/V + r/V) * threads + t) * V
// + r%V is register r of thread t of warp w, V = `vector`, R = tile / (threads * warps). Every tile has the layout that
// its axes have; along bits that none of its axes owns, threads hold equal copies. Of a `mirrored` grid's last two axes (i, j) and (j, i) run side by side. An mma with an atom takes its
// operands through shared memory; a summed axis spread over threads or warps is summed over them after its loop.
// `map fast` need not round each op, and takes the machine's exponentials and quotients: relative error 2^-20 for exponents up to 100; error functions within 2^-20.
//
// Roles (sm_90a). `work` is a grid whose instances a fixed set of blocks works off, in groups of so many tiles along the axis before
// the last, so that neighbours share what they read; `winding` each block there and back, so that all have as much to do where instances grow shorter; `backward` the same from the last tile of the last axis on; `claimed` each block takes the next one in order when it is almost done with the one before. Its roles run side by side, each its block for every instance in order,
// and meet in channels alone. A channel is a ring of `depth` slots, each a tuple of tiles in shared memory (axes outermost first).
// What is filled has a serial number, from 0 on over all instances; number s lies in slot s % depth. `fetch` fills the next
// one from memory, asynchronously, when all readers have released number s - depth; `get` waits for the next one; `release %c@s-1` gives
// back the one before the last got. `put` fills the next one of a ring that each instance of the role has for itself, `send` copies
// it to memory, asynchronously, behind a `fence`; the slot is free when that copy has read it. `issue mma` reads its operands until an `await n` that
// leaves less than it and all behind it in flight (n of them); its result is defined from there on, and before to the next issue that adds to it.
// `role x n along a`: instance g has the g-th tile of the axis, which lies within one of the work's. `in turns`: instance g
// has every n-th instance of the work, and between `turn` and `pass` no other one stands there; their gets share the serial numbers.
// `in steps`: instance g has every n-th step of the role's loop, counted over all instances of the work; their gets share the serial numbers, too.
// Of more axes `along` which the instances stand, each lies within one of the work's, of which they have a tile each, or all the same one.
// What one role puts and some role gets is one ring for all: each instance puts its part, fenced, and a number can be got when all have put theirs.
// `add %c to (…) over a`: what was last got is added to memory, asynchronously, in the order in which the work has the tiles of its axis a: the first
// to have such a step stores, each other one waits for the one before it, which is its neighbour; the slot is given back when it has been read.
// `load early`, in an each that sends to the same place: asked for before the first product of the instance, each step's into the slot that the step puts.
// `slice`: the part of a tile where axes within its own stand. `past (a, b)`: in all steps of the loop over a and b but the first, in which
// `else` stands instead; both yield its results. So a loop carries what one step makes for the next: products of two steps overlap.
// The first operand of an issued product may be a tile in registers: rows of 64, as products leave their sums, or, of 32 bits, as a map takes it out of a slot
// in which it lies across the sum. No other operand of 32 bits does, and none of 8.
// A part of one axis lies in its slot as it is in memory; maps read it there. What a role loads and stores itself, it does from registers.
// `work … shared along a`: so many blocks as the axis a has tiles do each instance together; the r-th stands in the r-th tile of a, so that its loops over
// axes within a sum that share. `share %v` shows the others its tile; `deal` is an `each` whose steps, counted over all instances of the role,
// are dealt to the blocks in turn; there `total %v` is the sum of all their %v, in the order of the shares, where axes within its own stand.
//
// Clusters (sm_90a). In a `cluster of n` the phases are one launch of n blocks, which stand on neighbouring multiprocessors: instances of a phase are
// dealt to the blocks, and all blocks wait for each other behind a phase, but for the next one where that runs `beside` it: then none of
// the phases between two such barriers touches what another of them stores. With `seq a` all phases run in order once for
// each coordinate of the axis a, which may stand in any index. A view is the memory of another parameter, in another shape.
#pragma once
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "ir/op.h"

namespace quern::tile {

using AxisId = int;
using ValueId = int;
using BufferId = int;

enum class BufferKind { in,
                        out,
                        scratch,
                        view };
struct Buffer {
  std::string name;    // generated: p0, p1, …, s0
  BufferKind kind;
  DType dtype;
  Shape shape;         // at the symbol's bound
  int64_t symbol = 0;  // > 0: the extent of dim `along` is so many times the symbol
  int64_t along = 0;
  int64_t room = 0;    // > 0: and in memory it has so many places, where that matters
  BufferId of = -1;    // of a view: whose memory it is
  Shape layout() const;    // the shape that it has places for
  Shape strides() const;   // elements from one to the next, of each dim
};

/// Where the elements of an axis lie within a block of threads (CUDA); counts are powers of two.
struct Spread {
  int64_t threads = 1, threads_at = 0;   // of a warp's 32, from this bit of the lane number
  int64_t warps = 1, warps_at = 0;       // of the block's warps, from this bit of the warp number
  int64_t vector = 1;                    // neighbouring elements per register group
  bool operator==(const Spread&) const = default;
};

struct Axis {
  std::string name;    // generated: i0, i1, …
  int64_t extent;
  int64_t tile = 1;
  bool lanes = false;
  Spread spread;
  int64_t symbol = 0;  // > 0: the extent is so many times the symbol, and `extent` its bound
  AxisId within = -1;  // >= 0: walks the block of that axis
  std::optional<Index> from, to;   // walks only the blocks that hold coordinates of from <= … < to
};

/// A tile: its element type and the names of its dimensions, in increasing axis id.
struct Value {
  DType dtype;
  std::vector<AxisId> axes;
};

/// A scalar expression in SSA form; the last node is the result.
struct ScalarNode {
  enum class Kind { op, constant, operand, coord, symbol, random } kind;
  DType dtype;
  Op op = Op::add;                 // kind op
  std::vector<int> args;           // op: earlier nodes; random: {key node (u32)}
  Scalar constant{};               // kind constant; symbol: its factor
  int operand = 0;                 // kind operand: which argument; random: the stream
  Index coord;                     // kind coord: an i64 in axis names; random: the element index
};
using ScalarExpr = std::vector<ScalarNode>;

struct BoxIndex {
  Index index;                     // used when gather < 0
  ValueId gather = -1;
  BoxIndex(Index index, ValueId gather = -1) : index(std::move(index)), gather(gather) {}
};
inline std::vector<BoxIndex> box_of(const std::vector<Index>& index) { return std::vector<BoxIndex>(index.begin(), index.end()); }

struct Stmt;
using Block = std::vector<Stmt>;

struct Load {
  ValueId out;
  BufferId buffer;
  std::vector<BoxIndex> index;
  bool ahead = false, early = false;
};
struct MapTile {
  ValueId out;
  ScalarExpr expr;
  std::vector<ValueId> args;
  bool fast = false;
};
struct ReduceTile { ValueId out; Op combine; std::vector<AxisId> axes; ValueId arg; };
enum class Precision { f64,
                       f32,
                       tf32,
                       tf32x3,
                       bf16,
                       f16,
                       f8 };   // tf32: operands rounded to 11 bits of significand
inline constexpr const char* kPrecisions[] = {"f64", "f32", "tf32", "tf32x3", "bf16", "f16", "f8"};
inline bool is_of_tf32(Precision p) { return p == Precision::tf32 || p == Precision::tf32x3; }
struct Mma {
  ValueId out;
  Precision precision;
  std::vector<AxisId> axes;
  ValueId acc, a, b;
  std::string atom = "";           // planned (CUDA): "simt" or a name in passes/tile/atoms.h; empty: from registers
  int64_t stages = 0;              // with an atom: steps of the loop that shared memory holds
  bool issued = false;             // in a role: asynchronous
};
struct Carry { ValueId var; Scalar init; };
/// `outs[i]` is the last value of `carries[i]`; `yields[i]` its next value, defined in `body`.
struct Seq { std::vector<AxisId> axes; std::vector<Carry> carries; Block body; std::vector<ValueId> yields, outs; };
struct Each { std::vector<AxisId> axes; Block body; };
struct Store { BufferId buffer; std::vector<BoxIndex> index; ValueId value; bool stream = false; };

// What stands in roles alone. Loads and stores name no tile in the text: theirs are a channel's.
struct Fetch { int channel; std::vector<Load> loads; };
struct Get { int channel; std::vector<ValueId> outs; };
struct Release { int channel; int64_t behind; };          // the last serial number got, less so many
struct Put { int channel; std::vector<ValueId> values; };
struct Fence {};
struct Send { int channel; std::vector<Store> stores; };
struct Await { int64_t left; };
struct Slice { ValueId out, arg; };
/// `outs[i]` is `yields[i]` of the body, or `others[i]` of the other block.
struct Past {
  std::vector<AxisId> axes;
  Block body;
  Block otherwise = {};
  std::vector<ValueId> yields = {}, others = {}, outs = {};
};
struct Turn { bool taken; };                              // or passed on
struct Share { ValueId value; };
struct Deal { std::vector<AxisId> axes; Block body; };
struct Total { ValueId out, arg; };
struct Add {
  int channel;
  std::vector<Store> stores;
  AxisId over;
};
struct InRole {
  std::variant<Fetch, Get, Release, Put, Fence, Send, Await, Slice, Past, Turn, Share, Deal, Total, Add> node;
};

/// The blocks that stand in a statement of a role.
inline std::vector<Block*> blocks_of(InRole& s) {
  if (auto* p = std::get_if<Past>(&s.node)) return {&p->body, &p->otherwise};
  if (auto* d = std::get_if<Deal>(&s.node)) return {&d->body};
  return {};
}
inline std::vector<const Block*> blocks_of(const InRole& s) {
  const std::vector<Block*> blocks = blocks_of(const_cast<InRole&>(s));
  return {blocks.begin(), blocks.end()};
}

struct Stmt {
  std::variant<Load, MapTile, ReduceTile, Mma, Seq, Each, Store, InRole> node;
};
/// What sends to the place of an early load, of the each that both stand in; null: nothing, or more than one part.
const Send* sent_over(const Block& each, const Load& early);

// --- roles ---
using ChannelId = int;
struct Channel {
  std::string name;                // generated: c0, c1, …
  std::vector<Value> parts;        // axes as memory has them, the last one contiguous
  int64_t depth;
};
struct Role {
  std::string name;
  int64_t count = 1;
  std::vector<AxisId> along = {};  // the axes whose tiles its instances take
  bool turns = false;              // or they take turns
  bool steps = false;              // or a step of their loop each
  int64_t registers = 0;           // per thread; 0: as many as all have at the start
  Block body;
};

/// Does a role only move slots, so that one thread is enough for it?
bool only_moves(const Role& role);

struct Phase {
  std::vector<AxisId> grid;
  Block body;
  bool beside = false;     // the phase before it
  bool mirrored = false;   // instances (i, j) and (j, i) of the last two axes, of as many tiles each, are neighbours
  // With roles, whose bodies replace this one:
  int64_t group = 0;               // > 0: tiles of the axis before the last that neighbouring instances walk
  bool backward = false;           // along the last axis
  bool winding = false;            // or not backward, but there and back
  bool claimed = false;            // each block takes the next instance when it is almost done with the one before
  AxisId shared = -1;              // >= 0: the axis whose tiles the blocks of an instance take
  std::vector<Channel> channels;
  std::vector<Role> roles;
};

/// Does some role get what is put into the channel?
bool is_got(const Phase& phase, ChannelId channel);

struct Kernel {
  std::string name;                // generated from its ops: k3_contract_add_tanh
  std::vector<Buffer> buffers;     // parameters first (inputs, then outputs), scratch and views last
  std::vector<Axis> axes;
  std::vector<Value> values;
  std::vector<Phase> phases;
  int64_t cluster = 0;             // > 0: so many blocks run all phases (CUDA)
  AxisId steps = -1;               // >= 0: the axis for each of whose coordinates they do
  std::vector<SourceLoc> sources;  // every user line whose op is computed here

  int64_t params() const;          // how many buffers are neither scratch nor views
  int64_t sharers(const Phase& phase) const { return phase.shared < 0 ? 1 : ceil_div(axes[static_cast<size_t>(phase.shared)].extent, axes[static_cast<size_t>(phase.shared)].tile); }   // blocks of an instance
  BufferId memory(BufferId b) const { return buffers[static_cast<size_t>(b)].of < 0 ? b : buffers[static_cast<size_t>(b)].of; }   // the parameter, or scratch, that it is
  Index coordinate(AxisId axis) const { return Index::axis(axis, axes[axis].extent); }
};

std::string to_string(const Kernel& kernel);
std::string to_string(const ScalarExpr& expr, const Kernel& kernel);
Kernel parse_kernel(const std::string& text);                 // throws Error(bad_file)
void verify(const Kernel& kernel);                            // throws Error(internal) naming the statement
/// Whether the axis is walked element by element: one of a seq that stores every step or at gathered indices, or carries
/// a flag (of a scan: whether the first step is behind).
bool is_walked(const Kernel& kernel, AxisId axis);
/// Whether the axis is the other one, or walks a block of it.
bool lies_within(const Kernel& kernel, AxisId inner, AxisId outer);
/// The kernel for one value of the symbol.
Kernel at_size(Kernel kernel, int64_t n);
/// Runs the kernel (one without a symbol) on the host; `buffers` are the parameters in order, outputs written in place.
void interpret(const Kernel& kernel, std::vector<HostTensor*> buffers);
/// Of everything but names and sources: equal kernels compile once.
std::string structure(const Kernel& kernel);

}  // namespace quern::tile
