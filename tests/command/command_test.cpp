// The command where no CPU target is needed: what it lists, prints and interprets, and, in a build without LLVM, the
// exit status and message of what needs one. A label of its own, as the sanitizer builds leave the command out: its
// sources take as long to compile as all else.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>

#include <gtest/gtest.h>
#include <sys/wait.h>

namespace {

void expect(const std::string& arguments, int status, const std::string& part) {
  const char* binary = std::getenv("QUERN_BINARY");
  ASSERT_TRUE(binary) << "run this test through ctest";
  FILE* pipe = ::popen((std::string(binary) + " " + arguments + " 2>&1").c_str(), "r");
  ASSERT_TRUE(pipe);
  std::string text;
  std::array<char, 4096> block;
  for (size_t n; (n = std::fread(block.data(), 1, block.size(), pipe)) > 0;) text.append(block.data(), n);
  const int end = ::pclose(pipe);
  EXPECT_TRUE(WIFEXITED(end));
  EXPECT_EQ(WEXITSTATUS(end), status) << arguments << "\n" << text;
  EXPECT_NE(text.find(part), std::string::npos) << arguments << "\n" << text;
}

TEST(Command, NeedsNoCpuTargetForWhatItListsPrintsAndInterprets) {
  expect("--help", 0, "train");
  expect("ops contract", 0, "contract");
  expect("doctor", 0, "cpu target");
  expect("dump mlp --what ir --set inputs=8 --set hidden=4", 0, "graph (");
  expect("dump mlp --what fusion --set inputs=8 --set hidden=4", 0, "fused");
  expect("train mlp --device interpret --steps 2 --losses", 0, "step 2 loss");
  expect("run mlp --set inputs=8 --set hidden=4 --set batch=2 --device interpret", 0, "loss f32[]");
  expect("no-such-command", 2, "there is no command");
}

#ifndef QN_LLVM
TEST(Command, SaysThatThereIsNoCpuTarget) {
  for (const char* c : {"check mlp", "check mlp --target cpu:v128", "compile mlp -o /dev/null --target cpu:avx2", "run mlp", "train mlp", "run mlp --device null", "bench"})
    expect(c, 4, "this build has no CPU target (QN_LLVM=OFF)");
}
#endif

}  // namespace
