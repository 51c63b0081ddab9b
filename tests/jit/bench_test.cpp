// quern bench and its peers: rows with the keys that tables are made of, both JSONs joined, a missing framework and a
// wrong loss reported. Runs the built command (QUERN_BINARY) and python3; no PyTorch or JAX is needed.
#include <cmath>
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

TEST(Suite, NoPeerIsNoPass) {
  Result r = run("mkdir -p " + testing::TempDir() + "quern_no_python && PATH=" + testing::TempDir() + "quern_no_python " + quern("bench suite cpu --peers torch,jax"));
  EXPECT_EQ(r.status, 5) << r.text;
  EXPECT_NE(r.text.find("no peer was found"), std::string::npos) << r.text;
  r = run(quern("bench suite cpu 'matmul 256x256x256 nn' --peers none --threads 1 --rounds 1"));   // none was asked for
  EXPECT_EQ(r.status, 0) << r.text;
  EXPECT_NE(r.text.find("no peer has it"), std::string::npos) << r.text;
  r = run(quern("bench suite cpu 'matmul 1x256x784 nn' --peers jaxx"));
  EXPECT_EQ(r.status, 2) << r.text;
  EXPECT_NE(r.text.find("did you mean \"jax\""), std::string::npos) << r.text;
  EXPECT_EQ(run(quern("bench suite cpu nonsense")).status, 2);
  EXPECT_EQ(run(quern("bench --rounds 3 suite cpu")).status, 2);
}

TEST(Suite, OfAGpu) {
  EXPECT_EQ(run(quern("bench suite cuda nonsense")).status, 2);
  const Result r = run(quern("bench suite cuda row --threads 2"));
  EXPECT_EQ(r.status, 2) << r.text;
  EXPECT_NE(r.text.find("--threads is for the CPU"), std::string::npos) << r.text;
  EXPECT_EQ(run("CUDA_VISIBLE_DEVICES= " + quern("bench suite cuda row --peers none")).status, 5);   // no GPU
  // PyTorch and JAX make the cases' data on the GPU; without site packages they say why they cannot.
  for (const char* variant : {"torch", "torch-compile", "cublaslt", "jax"}) {
    const Result peer = run("printf '{\"start\": {\"threads\": 1, \"variant\": \"" + std::string(variant) + "\"}}\\n' | python3 -S bench/peers/suite_cuda.py");
    EXPECT_EQ(peer.status, 0);
    EXPECT_NE(peer.text.find("\"error\": \"ModuleNotFoundError"), std::string::npos) << peer.text;
  }
}

TEST(Suite, RowsAndSummaries) {
  const std::string path = testing::TempDir() + "quern_suite.json";
  const Result r = run(quern("bench suite cpu 'matmul 256x256x256 n' --peers openblas,onednn --threads 1 --rounds 3 --json " + path));
  if (r.status == 5) {
    EXPECT_NE(r.text.find("peer openblas: missing: libopenblas"), std::string::npos) << r.text;
    GTEST_SKIP() << r.text;
  }
  ASSERT_EQ(r.status, 0) << r.text;
  std::ifstream in(path);
  const Json all = Json::parse(in), &table = all["tables"].at(0);
  EXPECT_EQ(table["threads"], 1);
  for (const char* c : {"fma_gflop_per_s", "read_gb_per_s", "write_gb_per_s", "copy_gb_per_s"}) EXPECT_GT(table["ceilings"][c], 0.0) << c;
  for (const char* p : {"openblas", "onednn"}) EXPECT_TRUE(table["peers"][p].contains("version") || table["peers"][p].contains("missing")) << table["peers"].dump();
  ASSERT_EQ(table["rows"].size(), 2u);
  double product = 1, least = 1e9;
  for (const Json& row : table["rows"]) {
    const double ratio = row["ratio"];
    product *= ratio;
    least = std::min(least, ratio);
    EXPECT_LE(row["ratio_low"], ratio);
    EXPECT_LE(ratio, row["ratio_high"]);
    EXPECT_GT(row["aa_ratio"], 0.0);
    EXPECT_EQ(row["met"].get<bool>(), ratio >= 1 || row["times_roofline"] <= 1.25) << row.dump();
  }
  for (const Json& s : {table["families"]["matmul"], table["overall"], all["overall"], all["families"]["matmul"]}) {
    EXPECT_EQ(s["cases"], 2);
    EXPECT_NEAR(s["geomean_ratio"], std::sqrt(product), 1e-9);
    EXPECT_EQ(s["min_ratio"], least);
  }
}

Json suite_of(const std::string& arguments, const std::string& environment = "") {
  const std::string path = testing::TempDir() + "quern_suite.json";
  const Result r = run(environment + quern("bench suite cpu 'matmul 256x256x256' --threads 1 --json " + path + " " + arguments));
  EXPECT_EQ(r.status, 0) << r.text;
  std::ifstream in(path);
  return Json::parse(in)["tables"].at(0);
}

TEST(Suite, TimeIsSharedFairly) {
  const Json table = suite_of("--peers none --rounds 10000 --time-limit 12");
  ASSERT_EQ(table["rows"].size(), 3u);
  double least = 1e9, most = 0;
  for (const Json& row : table["rows"]) {
    least = std::min(least, row["seconds"].get<double>()), most = std::max(most, row["seconds"].get<double>());
    EXPECT_GE(row["rounds"], 3);
    EXPECT_LT(row["rounds"], 10000);
  }
  EXPECT_LT(most, 2 * least + 0.5);   // none behind others
  EXPECT_EQ(table["overall"]["left_out"], 0);
  EXPECT_NEAR(table["overall"]["seconds"], table["families"]["matmul"]["seconds"].get<double>(), 1e-9);
  const Json late = suite_of("--peers none --rounds 10000 --time-limit 1");   // the ceilings alone take as long
  for (const Json& row : late["rows"]) EXPECT_TRUE(row.contains("left_out") || row["rounds"] >= 3) << row.dump();
}

// A python3 that answers as a peer: its first process ends at its first case, or each case takes long and fails.
std::string false_python(const std::string& at_case) {
  const std::string folder = testing::TempDir() + "quern_false_python";
  const std::string real = run("command -v python3").text;
  run("rm -rf " + folder + " && mkdir -p " + folder);
  std::ofstream(folder + "/python3") << "#!" << real << "import json, os, sys, time\nstarts = '" << folder << "/starts'\nopen(starts, 'a').write('x')\nnumber = os.path.getsize(starts)\n"
                                     << "for line in sys.stdin:\n    answer = {'version': 'false'}\n    if 'prepare' in json.loads(line):\n        " << at_case << "\n    print(json.dumps(answer), flush=True)\n";
  run("chmod +x " + folder + "/python3");
  return "PATH=" + folder + ":$PATH ";
}

TEST(Suite, AnEndedPeerStartsAgain) {
  const Json table = suite_of("--peers torch --rounds 1", false_python("answer = {'unsupported': True} if number > 1 else sys.exit(1)"));
  ASSERT_EQ(table["rows"].size(), 3u);
  EXPECT_NE(table["rows"][0]["peers"]["torch"]["failed"].get<std::string>().find("process has ended"), std::string::npos);
  for (size_t i : {1, 2}) EXPECT_TRUE(table["rows"][i]["peers"].empty()) << table["rows"][i].dump();
}

TEST(Suite, ASlowPeerIsLeftOutInTime) {
  const Json table = suite_of("--peers torch --rounds 1 --time-limit 8", false_python("time.sleep(3.4); answer = {'error': 'slow'}"));   // a share is 2.7 s at most
  ASSERT_EQ(table["rows"].size(), 3u);
  int left_out = 0;
  for (const Json& row : table["rows"]) left_out += row.contains("left_out") || row["peers"]["torch"]["failed"].get<std::string>().find("left out: ") != std::string::npos;
  EXPECT_EQ(left_out, 2) << table.dump();
  EXPECT_EQ(table["overall"]["left_out"], 2);
}

TEST(Suite, PeersAnswerWithTheirReason) {
  // Without site packages there is no framework; a child says so and goes on.
  for (const char* script : {"torch", "jax", "onnxruntime"}) {
    const Result r = run("printf '{\"start\": {\"threads\": 1, \"variant\": \"\"}}\\n' | python3 -S bench/peers/suite_" + std::string(script) + ".py");
    EXPECT_EQ(r.status, 0);
    EXPECT_NE(r.text.find("\"error\": \"ModuleNotFoundError"), std::string::npos) << r.text;
  }
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
