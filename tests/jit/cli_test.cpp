// The command line end to end: exit statuses and messages for good and bad input.
// Runs the built command, whose path is in QUERN_BINARY.
#include <cstdio>
#include <fstream>

#include <gtest/gtest.h>

namespace {

struct Result {
  int status;
  std::string text;
};
Result run(const std::string& arguments) {
  const std::string command = "QUERN_CACHE_DIR=" + testing::TempDir() + "quern_cli_cache " + std::getenv("QUERN_BINARY") + " " + arguments + " 2>&1";
  FILE* pipe = ::popen(command.c_str(), "r");
  Result r{0, ""};
  char block[4096];
  for (size_t n; (n = std::fread(block, 1, sizeof block, pipe)) > 0;) r.text.append(block, n);
  const int status = ::pclose(pipe);
  r.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
  return r;
}
void expect(const std::string& arguments, int status, const std::string& part) {
  const Result r = run(arguments);
  EXPECT_EQ(r.status, status) << arguments << "\n" << r.text;
  EXPECT_NE(r.text.find(part), std::string::npos) << arguments << "\n" << r.text;
}

TEST(Cli, Good) {
  const std::string package = testing::TempDir() + "quern_cli.qpk";
  expect("--version", 0, "quern ");
  expect("--help", 0, "train");
  expect("ops contract", 0, "differentiable");
  expect("check mlp --grad --set batch=4 --samples 1", 0, "passed");
  expect("compile mlp --set batch=4 -o " + package + " --time-passes", 0, "partition");
  expect("run " + package, 0, "loss f32[]");
  expect("run mlp --set batch=2 --set inputs=5 --device interpret", 0, "loss f32[]");
  expect("train mlp --device interpret --epochs 1 --steps 4 --losses", 0, "step 4 loss");
  expect("train mlp --epochs 30 --seeds 2", 0, "mean test accuracy of 2 seeds: 97");
  for (const char* what : {"ir", "dot", "tile", "plan", "kernels", "fusion", "program"}) expect(std::string("dump mlp --set batch=4 --what ") + what, 0, "");
  expect("fuzz graphs -n 30 --seed 4 --grad", 0, " 0 mismatches");
  expect("cache verify", 0, " 0 damaged");
  expect("cache clear", 0, "removed");
  expect("doctor --json -", 0, "\"cpu\"");
}

TEST(Cli, SameSeedSameCheckpoint) {
  const std::string one = testing::TempDir() + "one.safetensors", two = testing::TempDir() + "two.safetensors";
  expect("train mlp --epochs 2 --seed 5 --checkpoint " + one, 0, "saved");
  expect("train mlp --epochs 2 --seed 5 --checkpoint " + two, 0, "saved");
  const auto read = [](const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return std::string((std::istreambuf_iterator<char>(in)), {});
  };
  EXPECT_EQ(read(one), read(two));
  EXPECT_FALSE(read(one).empty());
}

TEST(Cli, Bad) {
  expect("", 2, "subcommand");
  expect("tran mlp", 2, "did you mean \"train\"");
  expect("train vgg", 2, "registered models: mlp");
  expect("train mlp --flag", 2, "--flag");
  expect("train mlp --device gpu", 2, "devices are interpret, cpu, cuda:N and null");
  expect("train mlp --device cuda", 5, "--device cpu");
  expect("train mlp --device cuda:sm_90a", 2, "--target");
  expect("check mlp --target cuda:0", 2, "--device");
  expect("check mlp --target tpu", 2, "targets are");
  expect("train mlp --optimizer sgdd", 2, "optimizers are");
  expect("train mlp --data /nonexistent", 3, "No such file");
  expect("check missing.qir", 3, "missing.qir");
  expect("check model.txt", 2, ".qir");
  expect("dump mlp --what nothing", 2, "--what nothing");
  expect("compile mlp -o /nonexistent/x.qpk", 3, "cannot be written");
  expect("compile mlp -o /dev/null --disable-pass partition", 2, "cannot be disabled");
  const std::string bad = testing::TempDir() + "bad.qpk";
  std::ofstream(bad) << "not a package, but long enough to have a head";
  expect("run " + bad, 3, "magic");
  const std::string text = testing::TempDir() + "bad.qir";
  std::ofstream(text) << "graph (%0: f32[2] \"x\") {\n  %1 = add %0, %7 : f32[2]\n}\n";
  expect("check " + text, 3, "bad.qir:2:");
  const std::string images = testing::TempDir() + "train-images-idx3-ubyte";
  std::ofstream(images) << "short";
  expect("train mlp --data " + testing::TempDir(), 3, "IDX");
  std::remove(images.c_str());
}

}  // namespace
