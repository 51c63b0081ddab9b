// See symbol.h.
#include "ir/symbol.h"

#include <algorithm>

#include <fmt/format.h>

namespace quern {

bool is_symbolic(const Shape& shape) {
  return std::any_of(shape.begin(), shape.end(), [](int64_t d) { return is_symbolic(d); });
}

Shape at_size(Shape shape, int64_t n) {
  for (int64_t& d : shape) d = at_size(d, n);
  return shape;
}

Type at_size(Type type, int64_t n) {
  type.shape = at_size(std::move(type.shape), n);
  if (type.bytes() > kMaxBytes) throw Error(Code::too_large, fmt::format("{} is too large: more than 2^46 bytes", to_string(type))).with_help("lower the symbol's bound");
  for (Type& t : type.results) t = at_size(std::move(t), n);
  return type;
}

int64_t rows_before_symbol(const Shape& shape) {
  int64_t rows = 1;
  for (int64_t d : shape) {
    if (is_symbolic(d)) return rows;
    rows = checked_mul(rows, d);
  }
  return 1;
}

Graph at_size(const Graph& graph, int64_t n) {
  Graph out = graph;
  out.symbol.reset();
  for (Node& node : out.nodes) {
    node.type = at_size(std::move(node.type), n);
    for (Shape* s : {&node.attrs.shape, &node.attrs.start, &node.attrs.limit, &node.attrs.low, &node.attrs.high}) *s = at_size(std::move(*s), n);
    for (auto* body : {&node.attrs.body, &node.attrs.otherwise, &node.attrs.derivative})
      if (*body) *body = std::make_shared<const Graph>(at_size(**body, n));
  }
  return out;
}

int64_t size_for(const Graph& graph, const std::vector<Shape>& shapes) {
  if (!graph.symbol) return 1;
  const Symbol& symbol = *graph.symbol;
  int64_t n = 0;
  std::string from;
  for (size_t i = 0; i < graph.inputs.size(); ++i) {
    const Node& input = graph.at(graph.inputs[i]);
    for (size_t d = 0; d < input.type.shape.size() && d < shapes[i].size(); ++d) {
      const int64_t factor = symbol_factor(input.type.shape[d]), given = shapes[i][d];
      if (!factor) continue;
      const auto refuse = [&](const std::string& why, const std::string& help) {
        return Error(Code::symbol_size, fmt::format("input \"{}\" is {}[{}], the graph wants {}: {}", input.attrs.name, name_of(input.type.dtype), shape_text(shapes[i]), to_string(input.type), why)).with_help(help);
      };
      if (given % factor) throw refuse(fmt::format("{} is no multiple of {}", given, factor), "give whole rows");
      if (given / factor < symbol.low || given / factor > symbol.high)
        throw refuse(fmt::format("\"{}\" is {} to {}", symbol.name, symbol.low, symbol.high), "build the model with wider bounds, or split the input");
      if (!from.empty() && given / factor != n) throw refuse(fmt::format("\"{}\" is {} in {}", symbol.name, n, from), "give all inputs the same size");
      n = given / factor;
      from = fmt::format("input \"{}\"", input.attrs.name);
    }
  }
  return from.empty() ? symbol.high : n;
}

std::string extent_text(int64_t extent) {
  const int64_t factor = symbol_factor(extent);
  return factor == 0 ? fmt::format("{}", extent) : factor == 1 ? "n" : fmt::format("{}n", factor);
}

std::string shape_text(const Shape& shape) {
  std::string out;
  for (size_t d = 0; d < shape.size(); ++d) out += (d ? "," : "") + extent_text(shape[d]);
  return out;
}

}  // namespace quern
