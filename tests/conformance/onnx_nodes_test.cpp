// ONNX's backend node cases on the interpreter, against the states that tests/conformance/onnx_node_tests.txt lists: no
// case fails, and none gets worse than it is listed. The cases are not part of the source: they are looked for in the
// folder that QUERN_DATA names, then in ../shared/data; without them the test is skipped with that reason.
//
// To list better states: quern conformance onnx build/onnx-node-tests --device interpret --json report.json, then
// tests/conformance/states.py report.json > tests/conformance/onnx_node_tests.txt
#include <filesystem>
#include <fstream>
#include <map>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "ir/support/env.h"
#include "tests/support/command.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

fs::path packed_cases() {
  std::vector<fs::path> folders;
  if (const char* data = env(Env::data)) folders.emplace_back(data);
  folders.push_back(fs::path(QN_SOURCE_DIR) / "../shared/data");
  for (const fs::path& f : folders)
    if (fs::exists(f / "onnx-node-tests/onnx-node-tests.tar.xz")) return f / "onnx-node-tests/onnx-node-tests.tar.xz";
  return {};
}

// "passed test_abs" lines.
std::map<std::string, std::string> listed_states() {
  std::map<std::string, std::string> out;
  std::ifstream in(fs::path(QN_SOURCE_DIR) / "tests/conformance/onnx_node_tests.txt");
  std::string state, name;
  while (in >> state >> name) out[name] = state;
  return out;
}

TEST(OnnxNodes, NoCaseIsWorseThanListed) {
  const fs::path packed = packed_cases();
  if (packed.empty()) GTEST_SKIP() << "ONNX's node cases are not here: set QUERN_DATA to a folder with onnx-node-tests/onnx-node-tests.tar.xz";
  const fs::path folder = fs::path(testing::TempDir()) / "quern_onnx_node_tests", report = folder / "report.json";
  fs::remove_all(folder);
  fs::create_directories(folder);
  const test::Result unpacked = test::shell("python3 -c \"import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])\" '" + packed.string() + "' '" + folder.string() + "'");
  ASSERT_EQ(unpacked.status, 0) << unpacked.text;
  const test::Result run = test::quern("conformance onnx '" + folder.string() + "' --device interpret --json '" + report.string() + "'");
  EXPECT_EQ(run.status, 0) << run.text.substr(run.text.size() > 2000 ? run.text.size() - 2000 : 0);
  std::ifstream in(report);
  const nlohmann::json json = nlohmann::json::parse(in, nullptr, false);
  ASSERT_TRUE(json.is_object());
  std::map<std::string, std::string> listed = listed_states();
  ASSERT_EQ(listed.size(), 1802u);
  EXPECT_EQ(json["failed"], 0);
  int better = 0;
  for (const auto& c : json["cases"]) {
    const std::string name = c["case"], state = c["state"];
    const auto was = listed.find(name);
    ASSERT_NE(was, listed.end()) << name << " is not listed";
    if (was->second == "passed") EXPECT_EQ(state, "passed") << name << ": " << c.value("reason", "");
    better += was->second != "passed" && state == "passed";
    listed.erase(was);
  }
  EXPECT_TRUE(listed.empty()) << listed.size() << " listed cases did not run, " << listed.begin()->first << " among them";
  if (better) std::printf("%d cases pass that are listed as unsupported: list them (see the head of this file)\n", better);
  fs::remove_all(folder);
}

}  // namespace
}  // namespace quern
