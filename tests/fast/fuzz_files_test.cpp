// `quern fuzz files`: the readers under a small campaign, and that a campaign notices what it is for. A larger one, as
// `quern fuzz files` runs it: QN_FUZZ_FILES=100000 QN_FUZZ_SEED=1 fuzz_files_test --gtest_filter='*SmallCampaign*'
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "tools/fuzz_files.h"

namespace quern {
namespace {

// As many files as the environment says.
int64_t number(const char* variable, int64_t fallback) {
  const char* text = std::getenv(variable);
  return text ? std::atoll(text) : fallback;
}

TEST(FuzzFiles, SeedsLoad) {
  const std::string folder = testing::TempDir() + "quern_fuzz_seeds";
  for (const FileKind& kind : file_kinds()) {
    std::filesystem::create_directories(folder + "/" + kind.name);
    for (const auto& [name, bytes] : kind.beside) std::ofstream(folder + "/" + kind.name + "/" + name, std::ios::binary) << bytes;
    for (size_t i = 0; i < kind.seeds.size(); ++i) {
      const std::string path = folder + "/" + kind.name + "/" + kind.file;
      std::ofstream(path, std::ios::binary) << kind.seeds[i];
      EXPECT_NO_THROW(kind.read(path)) << kind.name << " " << i;
      std::string repaired = kind.seeds[i];
      if (kind.repair) kind.repair(repaired);
      EXPECT_EQ(repaired, kind.seeds[i]) << kind.name << " " << i;
    }
  }
  std::filesystem::remove_all(folder);
}

TEST(FuzzFiles, SmallCampaignFindsNothing) {
  FileFuzz o;
  o.count = number("QN_FUZZ_FILES", 3500);
  o.seed = static_cast<uint64_t>(number("QN_FUZZ_SEED", 1));
  const FileFuzzReport r = fuzz_files(file_kinds(), o);
  int64_t files = 0;
  for (const auto& [name, c] : r.kinds) {
    std::printf("%-12s %7ld files, %7ld loaded; refused:", name.c_str(), c.files, c.loaded);
    for (const auto& [code, times] : c.refused) std::printf(" %s x%ld", to_string(code).c_str(), times);
    std::printf("\n");
    EXPECT_GT(c.loaded, 0) << name;            // what never loads is damaged beyond testing
    EXPECT_LT(c.loaded, c.files) << name;
    files += c.files;
  }
  for (const FileFinding& f : r.findings) ADD_FAILURE() << f.kind << " " << f.index << ": " << f.what << "; kept as " << f.file;
  EXPECT_TRUE(files == o.count || !r.findings.empty());
}

TEST(FuzzFiles, CampaignsRepeat) {
  FileFuzz o;
  o.count = 140;
  const FileFuzzReport a = fuzz_files(file_kinds(), o), b = fuzz_files(file_kinds(), o);
  o.seed = 2;
  const FileFuzzReport c = fuzz_files(file_kinds(), o);
  bool other = false;
  for (const auto& [name, counts] : a.kinds) {
    EXPECT_EQ(counts.loaded, b.kinds.at(name).loaded) << name;
    EXPECT_EQ(counts.refused, b.kinds.at(name).refused) << name;
    other = other || counts.refused != c.kinds.at(name).refused;
  }
  EXPECT_TRUE(other);
}

// A reader that goes wrong, once in ten files: the other nine go on.
FileFuzzReport campaign(const std::function<void()>& wrong, const std::string& out) {
  int calls = 0;   // of one worker
  const FileKind kind{"text", "a.txt", {"12345", "hello there"}, [&](const std::string& path) {
                        std::ifstream in(path);
                        if (++calls == 5) wrong();
                        throw Error(Code::syntax, "as it should be").with_help("none needed");
                      }};
  FileFuzz o;
  o.count = 8;
  o.out = out;
  return fuzz_files({kind}, o);
}

TEST(FuzzFiles, EveryMishandlingIsFound) {
  const std::string out = testing::TempDir() + "quern_fuzz_found";
  std::filesystem::create_directories(out);
  const std::pair<const char*, std::function<void()>> wrongs[] = {
      {"kills its reader", [] { std::raise(SIGKILL); }},
      {"status 7", [] { std::_Exit(7); }},
      {"seconds", [] { for (volatile int i = 0; i >= 0;) {} }},
      {"of memory", [] { std::vector<char>(size_t{200} << 20, 1)[5] = 2; }},
      {"no Error: stoi", [] { (void)std::stoi("x"); }},
      {"without a way out", [] { throw Error(Code::syntax, "no help"); }},
      {"Q0007", [] { QN_CHECK(1 > 2, "an invariant"); }},
  };
  for (const auto& [part, wrong] : wrongs) {
    const FileFuzzReport r = campaign(wrong, out);
    ASSERT_EQ(r.findings.size(), 1u) << part;
    EXPECT_EQ(r.findings[0].index, 4);
    EXPECT_NE(r.findings[0].what.find(part), std::string::npos) << r.findings[0].what;
    EXPECT_TRUE(std::filesystem::exists(r.findings[0].file)) << r.findings[0].file;
    EXPECT_EQ(r.kinds.at("text").files, 8);
    EXPECT_EQ(r.kinds.at("text").refused.at(Code::syntax), 7);
    EXPECT_THROW(r.want_none(), Error);
  }
  EXPECT_NO_THROW(FileFuzzReport().want_none());
  EXPECT_TRUE(campaign([] {}, out).findings.empty());
  std::filesystem::remove_all(out);
}

}  // namespace
}  // namespace quern
