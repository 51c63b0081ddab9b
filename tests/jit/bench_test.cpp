// quern bench and its peers: rows with the keys that tables are made of, both JSONs joined, a missing framework and a
// wrong loss reported. Runs the built command (QUERN_BINARY) and python3; no PyTorch or JAX is needed.
#include <cstdio>
#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace {

using Json = nlohmann::json;

struct Result {
  int status;
  std::string text;
};
Result run(const std::string& command) {
  FILE* pipe = ::popen(("cd " QN_SOURCE_DIR " && " + command + " 2>&1").c_str(), "r");
  Result r{0, ""};
  char block[4096];
  for (size_t n; (n = std::fread(block, 1, sizeof block, pipe)) > 0;) r.text.append(block, n);
  const int status = ::pclose(pipe);
  r.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
  return r;
}
std::string quern(const std::string& arguments) { return std::string(std::getenv("QUERN_BINARY")) + " " + arguments; }
Json rows_of(const std::string& filter, const std::string& more = "") {
  const std::string path = testing::TempDir() + "quern_bench.json";
  const Result r = run(quern("bench '" + filter + "' --rounds 1 --json " + path + " " + more));
  EXPECT_EQ(r.status, 0) << r.text;
  std::ifstream in(path);
  return Json::parse(in);
}

TEST(Bench, RowsAndHead) {
  const Json all = rows_of("matmul 128x10x256");
  for (const char* key : {"command", "machine", "device", "target", "threads", "peers"}) EXPECT_TRUE(all.contains(key)) << key;
  ASSERT_EQ(all["rows"].size(), 1u);   // no row of compile_time
  const Json& row = all["rows"][0];
  EXPECT_EQ(row["name"], "matmul 128x10x256");
  EXPECT_GT(row["low_us"], 0.0);
  EXPECT_LE(row["low_us"], row["median_us"]);
  EXPECT_LE(row["median_us"], row["high_us"]);
  if (row["peer"] == "OpenBLAS") EXPECT_NEAR(row["ratio"], row["peer_median_us"].get<double>() / row["median_us"].get<double>(), 1e-9);
  else EXPECT_EQ(all["peers"]["OpenBLAS"].get<std::string>().rfind("none: ", 0), 0u) << all.dump();
}

TEST(Bench, CompileTimePhasesAddUp) {
  const Json all = rows_of("compile_time layer_norm 512", "--peer none");
  ASSERT_EQ(all["rows"].size(), 2u);
  for (const Json& row : all["rows"]) {
    EXPECT_GT(row["kernels"], 0);
    double sum = 0;
    for (const auto& [phase, ms] : row["phases_ms"].items()) sum += ms.get<double>();
    EXPECT_NEAR(sum, row["median_us"].get<double>() / 1000, 0.5 * sum) << row.dump();   // medians of few runs
  }
  EXPECT_NE(all["rows"][0]["name"], all["rows"][1]["name"]);
}

TEST(Bench, UnknownNames) {
  EXPECT_EQ(run(quern("bench nonsense")).status, 2);
  EXPECT_EQ(run(quern("bench softmax --peer nonsense")).status, 2);
}

TEST(Bench, MissingTorchIsAReason) {
  // Without site packages python3 finds neither numpy nor PyTorch.
  const Result r = run("printf '{\"start\": {\"threads\": 1, \"device\": \"cpu\"}}\\n' | python3 -S bench/peers/torch_ops.py");
  EXPECT_EQ(r.status, 0);
  EXPECT_NE(r.text.find("\"error\": \"ModuleNotFoundError"), std::string::npos) << r.text;
}

TEST(Bench, JoinedTables) {
  const std::string ours = testing::TempDir() + "quern_mlp.json", peers = testing::TempDir() + "quern_peers.jsonl";
  const Json all = rows_of("mlp step 784-256-10 batch 8", "--peer none");
  ASSERT_EQ(all["rows"].size(), 2u);
  std::ofstream(ours) << all.dump();
  Json theirs = all["rows"][0];
  theirs.update({{"peer", "Twice"}, {"version", "1"}, {"product_error", 1e-7}, {"first_call_s", 1.0}, {"median_us", 2 * theirs["median_us"].get<double>()}});
  std::ofstream(peers) << theirs.dump() << "\n";
  Result r = run("python3 -S bench/peers/mlp_step.py --batches 8 --peers jax-jit 2>/dev/null >>" + peers);
  EXPECT_EQ(r.status, 0) << r.text;
  r = run("python3 bench/peers/join.py " + ours + " " + peers);
  EXPECT_EQ(r.status, 0) << r.text;
  EXPECT_NE(r.text.find("(2.00)"), std::string::npos) << r.text;
  EXPECT_NE(r.text.find("JAX jit, f32, batch 8: not measured: ModuleNotFoundError"), std::string::npos) << r.text;
  theirs["loss"] = 2 * theirs["loss"].get<double>();
  std::ofstream(peers) << theirs.dump() << "\n";
  r = run("python3 bench/peers/join.py " + ours + " " + peers);
  EXPECT_EQ(r.status, 1);
  EXPECT_NE(r.text.find("WRONG LOSS"), std::string::npos) << r.text;
}

}  // namespace
