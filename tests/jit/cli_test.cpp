// The command line end to end: exit statuses and messages for good and bad input.
// What may be wrong in every single place is in bad_input_test.cpp.
#include <algorithm>
#include <fstream>

#include <nlohmann/json.hpp>

#include "tests/support/command.h"

namespace quern::test {
namespace {

TEST(Cli, Good) {
  const std::string package = testing::TempDir() + "quern_cli.qpk";
  expect("--version", 0, "quern ");
  expect("--help", 0, "train");
  expect("ops contract", 0, "differentiable");
  expect("check mlp --grad --set batch=4 --samples 1", 0, "passed");
  expect("compile mlp --set batch=4 -o " + package + " --time-passes --no-cache", 0, "partition");
  expect("compile mlp --set batch=4 -o " + package, 0, "compiled");
  expect("compile mlp --set batch=4 -o " + package + " --time-passes", 0, "program from the cache");
  expect("run mlp --set batch=4 --time-passes", 0, "load ");
  expect("run " + package, 0, "loss f32[]");
  expect("run mlp --set batch=2 --set inputs=5 --device interpret", 0, "loss f32[]");
  expect("train mlp --device interpret --epochs 1 --steps 4 --losses", 0, "step 4 loss");
  expect("train mlp --epochs 30 --seeds 2", 0, "mean test accuracy of 2 seeds: 97");
  for (const char* what : {"ir", "dot", "tile", "plan", "kernels", "fusion", "program"}) expect(std::string("dump mlp --set batch=4 --what ") + what, 0, "");
  expect("train mlp --epochs 30 --precision f16 --clip-norm 1.0", 0, "test accuracy 97");
  expect("check mlp --set batch=4 --set clip=0.5 --precision f16", 0, "passed");
  expect("dump gpt --set layers=1 --set clip=1.0 --precision f16 --what ir", 0, "loss_scale");
  expect("fuzz graphs -n 10 --seed 4 --grad --target cpu:v128", 0, "on cpu:v128: 0 mismatches");
  expect("check mlp --set batch=4 --grad --target cpu:v128", 0, "passed");
  expect("check mlp --set batch=4", 0, "the last from 0 to 20");   // second moments are not negative
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

TEST(Cli, RefusedArgumentsNameTheWholeCommand) { EXPECT_NE(quern("fuzz graphs -n 0").text.find("`quern fuzz graphs --help`"), std::string::npos); }

TEST(Cli, HelpOfEveryCommand) {
  const std::string list = quern("--help").text;
  size_t commands = 0;
  for (const std::string command : {"train", "check", "fuzz graphs", "dump", "compile", "run", "bench", "bench suite", "profile", "tune", "ops", "doctor", "cache path", "cache ls", "cache verify", "cache clear", "explain"}) {
    EXPECT_NE(list.find("\n  " + command.substr(0, command.find(' ')) + "  "), std::string::npos) << command;
    const Result r = quern(command + " --help");
    EXPECT_EQ(r.status, 0) << r.text;
    EXPECT_LE(std::count(r.text.begin(), r.text.end(), '\n'), 60) << command;
    EXPECT_NE(r.text.find("--json"), std::string::npos) << command;
    const size_t examples = r.text.find("Examples:\n");
    ASSERT_NE(examples, std::string::npos) << command;
    size_t shown = 0, at = examples;
    for (const std::string word = "quern " + command.substr(0, command.find(' ')); (at = r.text.find(word, at)) != std::string::npos; ++at) ++shown;
    EXPECT_GE(shown, 2u) << command << "\n" << r.text;   // of this command, not of another
    ++commands;
  }
  EXPECT_EQ(commands, 17u);
}

TEST(Cli, JsonOfEveryCommand) {
  const std::string package = testing::TempDir() + "quern_json.qpk", file = testing::TempDir() + "quern.json";
  for (const std::string command : {"train mlp --steps 2", "check mlp --set batch=2 --samples 1", "fuzz graphs -n 3", "dump mlp --what fusion", "compile mlp --set batch=2 -o ", "run mlp --set batch=2", "bench 'matmul 128x10x256' --rounds 1", "ops add",
                                    "doctor", "cache path", "cache ls", "cache verify", "cache clear", "explain Q0102"}) {
    const std::string whole = command.ends_with("-o ") ? command + package : command;
    const Result r = shell("QUERN_CACHE_DIR=" + testing::TempDir() + "quern_cli_cache " + binary() + " " + whole + " --json - 2>/dev/null");
    EXPECT_EQ(r.status, 0) << whole << "\n" << r.text;
    const nlohmann::json here = nlohmann::json::parse(r.text, nullptr, false);   // nothing else is on standard output
    EXPECT_TRUE(here.is_object() && here.contains("schema")) << whole << "\n" << r.text;
    for (const char* seeded : {"train", "check", "fuzz", "run"})
      EXPECT_TRUE(!command.starts_with(seeded) || here.contains("seed")) << whole;
    expect(whole + " --json " + file, 0, "");
    std::ifstream in(file);
    EXPECT_TRUE(nlohmann::json::parse(in, nullptr, false).is_object()) << whole;
  }
}

TEST(Cli, Bad) {
  expect("", 2, "a command is missing");
  expect("tran mlp", 2, "did you mean \"train\"");
  expect("train vgg", 2, "registered models: mlp");
  expect("train mlp --flag", 2, "--flag");
  expect("train mlp --device gpu", 2, "devices are interpret, cpu, cuda:N and null");
  expect("train mlp --device cuda", 5, "--device cpu");
  expect("train mlp --device cuda:sm_90a", 2, "--target");
  expect("check mlp --target cuda:0", 2, "--device");
  expect("check mlp --target tpu", 2, "targets are");
  expect("train mlp --clip-norm -1", 2, "--clip-norm");
  expect("dump mlp --set clip=0", 2, "clip=1.0");
  const std::string unscaled = testing::TempDir() + "unscaled.qir";
  expect("dump mlp -o " + unscaled, 0, "");
  expect("compile " + unscaled + " -o /dev/null --precision f16", 2, "loss_scale");
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
}  // namespace quern::test
