// NVRTC in processes of their own: whatever becomes of one, this process goes on, and says what happened.
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <unistd.h>

#include "codegen/cuda/process.h"
#include "codegen/image.h"

namespace quern {
namespace {

const char* kKernel = "extern \"C\" __global__ void k(float* x) { x[threadIdx.x] *= 2; }";

// A program of a few lines in place of quern-cc.
class CompilerProcesses : public testing::Test {
 protected:
  std::filesystem::path folder = std::filesystem::temp_directory_path() / ("quern_cc_" + std::to_string(::getpid()));
  void SetUp() override { std::filesystem::create_directories(folder); }
  void TearDown() override { std::filesystem::remove_all(folder); }
  std::string script(const std::string& lines) const {
    const std::string path = folder / "cc";
    std::ofstream(path) << "#!/bin/sh\n" << lines << "\n";
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    return path;
  }
  static std::string message(const std::string& path, int seconds = 20) {
    try {
      cuda::CompilerProcess(path, seconds).compile(kKernel, "sm_80");
    } catch (const Error& e) {
      EXPECT_EQ(e.code, Code::compiler_died) << e.what();
      return e.what();
    }
    return "compiled";
  }
};

TEST_F(CompilerProcesses, MayEndHangOrTalkNonsense) {
  const auto says = [&](const std::string& text, const std::string& words) { EXPECT_NE(text.find(words), std::string::npos) << text; };
  says(message(folder / "nowhere"), "does not start");
  says(message(script("exit 3")), "ended with status 3");
  says(message(script("kill -9 $$")), "ended by signal 9");
  says(message(script("kill -6 $$")), "ended by signal 6");
  says(message(script("sleep 20"), 1), "no answer in 1 s");
  says(message(script("while :; do echo nonsense >&0; done")), "no answer");
  says(message(script("printf '\\1\\0\\0\\0\\0\\0\\0\\0' >&0; sleep 20"), 1), "no answer in 1 s");
}

TEST_F(CompilerProcesses, CompileAndRefuse) {
  const std::string path = cuda::compiler_path();
  ASSERT_FALSE(path.empty()) << "quern-cc is built beside the tests";
  try {
    cuda::compiler_version();
  } catch (const Error& e) {
    GTEST_SKIP() << e.what();
  }
  cuda::CompilerProcess process(path);
  const cuda::Compiled there = process.compile(kKernel, "sm_80"), here = cuda::compile_here(kKernel, "sm_80");
  EXPECT_EQ(there.code, here.code);
  EXPECT_NE(there.log.find("registers"), std::string::npos);
  try {
    process.compile("no kernel", "sm_80");
    ADD_FAILURE() << "it compiled";
  } catch (const Error& e) {
    EXPECT_EQ(e.code, Code::general_bug);
    EXPECT_NE(std::string(e.what()).find("kernel.cu(1)"), std::string::npos) << e.what();
  }
  EXPECT_EQ(process.compile(kKernel, "sm_80").code, here.code) << "a refusal ends no process";
}

// Several at once, one of which is wrong: the others' processes are used again.
TEST_F(CompilerProcesses, SideBySide) {
  try {
    cuda::compiler_version();
  } catch (const Error& e) {
    GTEST_SKIP() << e.what();
  }
  std::vector<KernelImage> images(5);
  for (KernelImage& i : images) i.source = kKernel;
  EXPECT_TRUE(cuda::compile(images, "sm_80").empty());
  for (const KernelImage& i : images) EXPECT_EQ(i.code, images[0].code);
  images[3].source = "no kernel";
  EXPECT_THROW(cuda::compile(images, "sm_80"), Error);
  images[3].source = kKernel;
  EXPECT_TRUE(cuda::compile(images, "sm_80").empty());
  EXPECT_EQ(images[3].code, images[0].code);
  ::setenv("QUERN_CC", script("kill -9 $$").c_str(), 1);
  EXPECT_THROW(cuda::compile(images, "sm_80"), Error);
  ::unsetenv("QUERN_CC");
  EXPECT_TRUE(cuda::compile(images, "sm_80").empty());
}

}  // namespace
}  // namespace quern
