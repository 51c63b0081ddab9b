// main of every test program: GoogleTest, and exit status 77 where every test that was to run has been skipped (no GPU,
// no NVRTC), so that ctest says "Skipped" and never "Passed" of what did not run.
#include <cstdio>

#include <gtest/gtest.h>

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const int status = RUN_ALL_TESTS();
  const testing::UnitTest& unit = *testing::UnitTest::GetInstance();
  if (status != 0 || unit.skipped_test_count() == 0 || unit.successful_test_count() > 0) return status;
  std::printf("SKIPPED: all %d tests, for the reason above\n", unit.skipped_test_count());
  return 77;
}
