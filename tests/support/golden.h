// Golden cases: tests/cases/FOLDER/NAME.qir is a graph, NAME.tir a kernel, with directives in the comment lines before it
//   // pass expand simplify     the steps, in order: expand simplify fold panels:ARCH partition lower plan_cpu:ARCH plan_cuda:ARCH nest
//   // expect kernels = 1       how many kernels the whole pipeline makes of the graph
//   // expect verdict "TEXT"    is part of a line "contract -> tanh: fused" or "…: not fused: REASON" of the partition
// and, where there are steps, after a line "---", the text that they end with.
#pragma once
#include <filesystem>
#include <fstream>
#include <sstream>

#include "ir/text.h"
#include "passes/tile/nest.h"
#include "passes/tile/plan.h"
#include "passes/tile/schedule.h"
#include "tests/support/sweep.h"

namespace quern::test {

struct Golden {
  std::string file;                       // below tests/cases
  std::string text, expected;             // before and after the separator
  std::vector<std::string> steps, verdicts;
  int64_t kernels = -1;
  bool is_kernel() const { return file.ends_with(".tir"); }
  Graph graph() const { return parse_graph(text, file); }
};

inline Golden read_golden(const std::filesystem::path& path, const std::filesystem::path& root) {
  Golden g;
  g.file = std::filesystem::relative(path, root).string();
  std::ifstream in(path);
  bool after = false;
  for (std::string line; std::getline(in, line);) {
    if (!after && line == "---") {
      after = true;
      continue;
    }
    (after ? g.expected : g.text) += line + "\n";
    const auto directive = [&](const std::string& head) { return !after && line.starts_with(head); };
    if (directive("// pass ")) {
      std::istringstream words(line.substr(8));
      for (std::string w; words >> w;) g.steps.push_back(w);
    } else if (directive("// expect kernels = ")) {
      g.kernels = std::stoll(line.substr(20));
    } else if (directive("// expect verdict ")) {
      g.verdicts.push_back(line.substr(19, line.rfind('"') - 19));
    } else if (directive("// expect")) {
      throw Error(Code::syntax, g.file + ": an unknown directive: " + line);
    }
  }
  return g;
}

inline std::vector<Golden> all_golden() {
  const std::filesystem::path root = QN_SOURCE_DIR "/tests/cases";
  std::vector<std::filesystem::path> files;
  for (const auto& f : std::filesystem::recursive_directory_iterator(root))
    if (f.path().extension() == ".qir" || f.path().extension() == ".tir") files.push_back(f.path());
  std::sort(files.begin(), files.end());
  std::vector<Golden> out;
  for (const auto& f : files) out.push_back(read_golden(f, root));
  return out;
}

/// The kernels of a graph after the pipeline, lowered for a GPU, in order of their calls.
inline std::vector<tile::Kernel> kernels_of(const Graph& graph) {
  PassContext context;
  const Graph calls = run_pipeline(graph, context);
  std::vector<tile::Kernel> out;
  for (const Node& n : calls.nodes)
    if (n.op == Op::call) out.push_back(lower(*n.attrs.body, fmt::format("k{}_{}", out.size(), n.attrs.name), 0, 0, 1, Updates::side_by_side));
  return out;
}

}  // namespace quern::test
