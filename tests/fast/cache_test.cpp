// The kernel cache under damage: every flipped bit and every truncation of an entry is found, and folders that are not
// ours alone are refused.
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "codegen/cache.h"

namespace quern {
namespace {

TEST(Cache, DamageIsFoundAndCompiledAgain) {
  const std::string directory = testing::TempDir() + "quern_cache_test_" + std::to_string(::getpid());
  std::filesystem::remove_all(directory);
  const std::vector<uint8_t> payload = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  {
    Cache cache(directory);
    ASSERT_TRUE(cache.usable());
    cache.put("key", payload);
    EXPECT_EQ(cache.get("key"), payload);
    EXPECT_FALSE(cache.get("other"));
  }
  struct stat info {};
  ASSERT_EQ(::stat(directory.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  const std::string file = Cache(directory).list().at(0).file;
  std::ifstream in(file, std::ios::binary);
  const std::string good((std::istreambuf_iterator<char>(in)), {});
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    std::ofstream(file, std::ios::binary) << bad;
    Cache cache(directory);
    EXPECT_FALSE(cache.get("key")) << bit;
    EXPECT_EQ(cache.take_notes().size(), 1u);
    EXPECT_FALSE(std::filesystem::exists(file));
  }
  for (size_t n = 0; n < good.size(); ++n) {
    std::ofstream(file, std::ios::binary) << good.substr(0, n);
    EXPECT_FALSE(Cache(directory).get("key")) << n;
  }
  ::chmod(directory.c_str(), 0777);
  EXPECT_FALSE(Cache(directory).usable());
  std::filesystem::remove_all(directory);
  std::filesystem::create_symlink("/tmp", directory);
  EXPECT_FALSE(Cache(directory).usable());
  std::filesystem::remove(directory);
}

}  // namespace
}  // namespace quern
