// Symbols: a size that is known only when a graph runs. A graph may have one, with bounds; a dim is a constant or a
// constant times the symbol. Inside a graph such a dim is the number c * kSymbol: kSymbol is prime and larger than any
// constant extent beside it, so that type rules, views and derivatives compute with it as with any other extent, and
// what they compute says which sizes are symbolic. In texts it is written `n`, `2n`, ….
//
//   graph (%0: f32[n,784] "x") {
//     symbol "batch" 1 4096
//
// A graph with a symbol means the family of its graphs `at_size(graph, n)`; the interpreter runs the one that its inputs
// ask for. Compiled, buffers and plans are made for the bound, and kernels take the size as an argument: an element lies
// where it would at the bound, so that f32[24,n,64] is 24 rows as far apart as the bound's, of which n * 64 elements count.
#pragma once
#include "ir/graph.h"

namespace quern {

inline bool is_symbolic(int64_t extent) { return extent > 0 && extent % kSymbol == 0; }
bool is_symbolic(const Shape& shape);
/// c of c * n; 0 for a constant.
inline int64_t symbol_factor(int64_t extent) { return is_symbolic(extent) ? extent / kSymbol : 0; }
inline int64_t at_size(int64_t extent, int64_t n) { return is_symbolic(extent) ? checked_mul(extent / kSymbol, n) : extent; }
Shape at_size(Shape shape, int64_t n);
Type at_size(Type type, int64_t n);
/// How many rows the symbolic extent has in front of it: the product of the dims before it; 1 where there is none.
int64_t rows_before_symbol(const Shape& shape);
/// The same nodes with every symbolic size replaced, bodies included. Throws Error(memory) where a tensor gets too large.
Graph at_size(const Graph& graph, int64_t n);

/// The symbol's value that makes the graph's inputs have these shapes; the bound's where no input depends on it. Throws
/// Error(usage) naming the input where they do not agree or are outside the bounds.
int64_t size_for(const Graph& graph, const std::vector<Shape>& shapes);

std::string extent_text(int64_t extent);        // "64", "n", "2n"
std::string shape_text(const Shape& shape);     // "n,784"

}  // namespace quern
