// What a build has for a CPU target: this machine's, or, with QN_LLVM=OFF, an error that says so at every door.
#include <gtest/gtest.h>

#include "frontend/tensor.h"
#include "runtime/jit.h"

namespace quern {
namespace {

Graph small_graph() {
  Model g;
  const Tensor x = g.input("x", DType::f32, {3});
  g.output("y", x + x);
  return g.finish();
}

#ifdef QN_LLVM
TEST(CpuTarget, IsThisMachines) {
  const auto device = open_device("cpu");
  EXPECT_EQ(device->target(), parse_target("cpu"));
  CompileOptions options;
  options.target = parse_target("cpu:v128");
  options.use_cache = false;
  EXPECT_EQ(compile(small_graph(), options).images.size(), 1u);
}
#else
TEST(CpuTarget, IsAClearErrorWithoutLlvm) {
  const auto expect_error = [](auto&& body) {
    try {
      body();
      ADD_FAILURE() << "no error";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind, ErrorKind::compile);
      EXPECT_EQ(std::string(e.what()).rfind("this build has no CPU target (QN_LLVM=OFF)", 0), 0u) << e.what();
    }
  };
  expect_error([] { open_device("cpu"); });
  expect_error([] { parse_target("cpu"); });
  for (bool use_cache : {false, true})
    for (const char* target : {"cpu:v128", "cpu:avx2", "cpu:avx512"})
      expect_error([&] {
        CompileOptions options;
        options.target = parse_target(target);
        options.use_cache = use_cache;
        compile(small_graph(), options);
      });
  expect_error([] { jit(*open_device("null"), small_graph()); });
}
#endif

}  // namespace
}  // namespace quern
