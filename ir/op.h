// THE SEMANTICS PAGE. One OpDef per op, all its facets adjacent in ir/ops/*.cpp; `define` takes every facet, so a
// missing one does not compile. Lowering, cost, fusion and vmap are written once per alternative of `Meaning`.
//
// Values. Each op computes exactly (or in f64) and rounds once to its dtype: nearest even for floats, wrap-around for
// integers. max/min propagate NaN; max(-0, 0) is 0. Integer div and mod are floor division and its remainder, both 0
// for divisor 0. Float div is IEEE; float mod is a - floor(a/b)*b. pow(x, 0) is 1; abs of the least integer is itself.
// Comparisons with NaN are false, but `ne` is true. cast float→integer truncates, saturates, and takes NaN to 0;
// to bool it is x != 0. cast float→f8 rounds to nearest even; what is too large becomes an infinity, in f8e4m3, which has
// none, a NaN (clip first to saturate); integer→f8 goes the same way. bitcast keeps the bits, of dtypes with equally many;
// which NaN comes of a NaN is open. Storage dtypes (f8e4m3, f8e5m2, i4, u4) take cast, bitcast, select, views, take and
// what moves values; all else is an error that says what to cast to. sign(NaN) is NaN, sign(±0) is ±0. round takes ties to even. rem is exact, x - trunc(x/y)*y with
// the sign of x (C's fmod; NaN for y = 0 or infinite x); of integers 0 for divisor 0. atan2(y, x), signed zeros and
// infinities included, is C's. Outside its domain (asin, acos, atanh, erf_inv beyond ±1, acosh below 1, log1p below -1)
// a function is NaN, at a pole infinite. lgamma is log|gamma|: inf at 0, -1, -2, …; digamma is ∓inf at ±0 and NaN at
// -1, -2, …. A shift's count is read as unsigned; where it is not below the width, shift_left and shift_right_logical
// give 0, shift_right_arithmetic gives -1 for negative x, else 0.
// Elementwise ops want equal shapes; broadcasting is the op `broadcast`: argument dim d becomes output dim axes[d].
// Reductions over zero elements give the identity: 0, 1, and for max/min the least/greatest value (∓inf for floats).
// Sums, products of f16/bf16 accumulate in f32 or better and round once. argmax (i64) takes the lowest index among
// equals, and the first NaN if there is one.
// cumulate_sum (…_prod, _max, _min) along axes=[d]: out[i] combines x[0] to x[i], from the identity, as a reduction of them
// would; spec "reverse": from the last element to x[i]; "exclusive": without x[i] itself; "exclusive,reverse": both.
// argsort along axes=[d] (i64): the order that sorts x, stable, -0 beside 0; NaN counts as the greatest. spec
// "descending": greatest first, equals still in their order.
// contract "mk,kn->mn": letters name axes; a letter of both operands that the output lacks is summed, one that the
// output has is a batch axis; a letter of one operand must be in the output. No letter repeats within an operand.
// slice: start, limit, stride > 0. pad: low, high >= 0, value is a scalar argument. reverse: flips axes. concat: axes=[d].
// window(x, v): out[…, o…, k…] = x[…, (o*stride + k*dilation + start)/base…, k…] where that is an element of x, elsewhere
// the scalar v; attributes have one entry for every windowed dim, shape the extents of o; x ends with the dims of k.
// convolve(x, r, "nc,oc->no"): contract(window(x), r), where x is the same for all k and 0 outside: the letters name what
// comes before the windowed dims; the kernel's dims end r and are summed, the positions end the output. Beside
// infinities and NaN, what lies between two elements of x (base > 1) may count as 0 or not at all.
// take(x, i, axes=[d]): out[…, i…, …] = x[…, i, …], the dims of i in place of dim d; an index outside reads 0.
// put_add(x, i, u, axes=[d]): x plus u at rows i (adjoint of take); an index outside is ignored; equal indices add up.
// iota: the coordinate along axes[0] as dtype. extent: how many elements the shape has (i64; it may hold the symbol). random(key: u32[]): 32 random bits per element, see philox(); stream
// in `index`. stop_gradient: the value; derivative zero. barrier: the value; equal nodes on both of its sides stay two. stored: the value; what
// reads it reads it from memory.
// call: a closed graph applied to the arguments, after its transform: none, vjp (the derivatives of the scalar
// output 0 with respect to arguments `index`; results: the outputs, then the derivatives), jvp (further arguments: a
// tangent for each of the arguments `index`, of its type; results: the outputs, then a tangent for each, of its type and
// zero for those that are no floats), checkpoint (none, but its derivative computes what it needs of the body once more from
// the arguments, so that nothing between them and the results is kept), vmap (argument i has one more axis at axes[i], or none for -1; no axes: all at 0;
// every result has it at 0), kernel (none, and one kernel computes it). A call with a body `derivative` is differentiated by it:
// arguments, then a cotangent for each result; it gives a cotangent for each float argument.
// scan: index=[c, s], limit=[steps]; arguments: c carries, s tensors whose axis 0 has the extent `steps`, others. In each
// step, from the first to the last or with stride=[-1] from the last to the first, the body gets the carries, the step's
// slices and the others, and gives the next carries, then what is stacked along a new axis 0. Results: the last carries,
// the stacks. while_loop: index=[c]; arguments: c carries, the first a bool[] that says whether to go on, then others; the
// body gives the next carries; results: the last ones. cond: a bool[], then arguments of both bodies: of `body` if it is
// true, else of `otherwise`. result i: the i-th result of one of these.
// Under vmap, a random whose key has no such axis gives the same bits in every lane, else each lane those of its key.
//
// Derivatives. max/min and reduce max/min share ties evenly; abs, sign, floor, mod, round, rem have derivative 0 at their kinks.
// A tangent (jvp) is the transpose of the op's vjp, which is linear in the cotangent; no op has a rule of its own for it.
// cumulate_max/min: the first element (in walking order) that gave the value takes all. A maximum or minimum that the outputs do not
// depend on, as softmax does not on its own, has derivative 0 (passes/graph/shift.h).
// Derivatives are of f64, f32, bf16 and f16: through any other dtype, f8 included, none flows.
// An op that is expanded (`Expand`) is differentiated as what it stands for. A scan keeps of each step what its derivative
// reads; a cond runs the taken branch once more; a while_loop has forward mode only.
#pragma once
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <variant>

#include "ir/graph.h"
#include "ir/index.h"

namespace quern {

/// What a type rule sees. `fail` throws the error that names the op, the constraint, all operands and the line;
/// GraphBuilder::add adds what the operands are.
struct InferContext {
  Op op;
  std::span<const Type> args;
  const Attrs& attrs;
  SourceLoc where;
  [[noreturn]] void fail(Code code, const std::string& message, const std::string& help) const;
  void want(bool condition, Code code, const std::string& message, const std::string& help) const {
    if (!condition) fail(code, message, help);
  }
};

// --- what an op means, for everything that is written once per alternative ---
using ScalarFn = Scalar (*)(DType out, std::span<const Scalar> args);
struct Map { ScalarFn apply; };                     // out[i] = f(args[i]…)
/// One piece of a view: where all guards hold (low <= e < high), out[idx] = args[arg][index].
struct Guard { Index expr; int64_t low, high; };
struct Piece { int arg; std::vector<Index> index; std::vector<Guard> guards; };
struct View { std::vector<Piece> (*pieces)(const Node& node, std::span<const Type> args, std::span<const Index> out); };  // first match wins
struct Reduce { Op combine; };                      // a binary elementwise op over attrs.axes
struct Cumulate { Op combine; };                    // the same, every partial result: along attrs.axes[0]
struct Contract {};
struct Take {};
struct PutAdd {};
struct Source {};                                   // input, constant, iota, random: see Op
struct Body {};                                     // call, scan, while_loop, cond, result
/// Stands for simpler ops, built in the same graph; `apart`: for more of them with less work in all, where products have kernels of their own. Null: there is no such form.
struct Expand {
  using Build = NodeId (*)(GraphBuilder& b, const Node& node, std::span<const NodeId> args);
  Build build, apart = nullptr;
};
using Meaning = std::variant<Map, View, Reduce, Cumulate, Contract, Take, PutAdd, Source, Body, Expand>;

/// Derivative rule: given the node in `b` and the cotangent of its result, the cotangents of its arguments
/// (-1 where none flows).
using VjpFn = std::vector<NodeId> (*)(GraphBuilder& b, NodeId node, NodeId cotangent);
inline constexpr VjpFn no_gradient = nullptr;       // the derivative is zero or does not exist
/// Of ops whose meaning is Expand and that have no better rule than what they stand for: `expand` writes them out first.
std::vector<NodeId> vjp_of_expansion(GraphBuilder& b, NodeId node, NodeId cotangent);

/// One sample for the op sweep: argument types and attributes, and the range from which float values are drawn.
struct Sample { std::vector<Type> args; Attrs attrs; double low = -2, high = 2; };
using SamplesFn = std::vector<Sample> (*)(DType dtype);   // empty: the op does not take this dtype

struct OpDef {
  Op op;
  std::string_view name, doc;
  Type (*infer)(const InferContext& context);
  HostTensor (*eval)(const Node& node, std::span<const HostTensor* const> args);
  VjpFn vjp;
  Meaning meaning;
  SamplesFn samples;
};

const OpDef& def_of(Op op);
inline std::string_view name_of(Op op) { return def_of(op).name; }
std::optional<Op> parse_op(std::string_view name);

/// Runs its bodies no, one or several times: scan, while_loop, cond.
inline bool is_control_flow(Op op) { return op == Op::scan || op == Op::while_loop || op == Op::cond; }

template <class Alternative>
bool means(Op op) { return std::holds_alternative<Alternative>(def_of(op).meaning); }
/// Elementwise ops whose result's dtype is an attribute.
inline bool names_dtype(Op op) { return op == Op::cast || op == Op::bitcast; }

/// Whether the result jumps where a float argument changes a little: comparisons, what rounds to whole numbers, orders.
bool is_discontinuous(Op op);

/// Applies an elementwise op to single values; the one scalar table of both IRs.
Scalar apply_scalar(Op op, DType out, std::span<const Scalar> args);
/// Result dtype of an elementwise op on arguments of `dtype` (bool for comparisons).
DType scalar_result(Op op, DType dtype);
/// Identity of a combine op (add, mul, max, min) for a dtype.
Scalar identity_of(Op combine, DType dtype);

/// The parsed `spec` of a contract node: the letters of each operand and of the output.
struct ContractSpec { std::string lhs, rhs, out; };
ContractSpec parse_contract(const std::string& spec);   // throws Error(contract_spec)

/// The parsed `spec` of a cumulate node.
struct CumulateSpec { bool exclusive = false, reverse = false; };
std::optional<CumulateSpec> parse_cumulate(const std::string& spec);

}  // namespace quern
