// .npz archives: two that NumPy 2.4 wrote (tests/cases/npz), round trips, and every kind of damage; gzip data.
#include <cstring>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "frontend/npy.h"
#include "frontend/npz.h"
#include "ir/support/file.h"

namespace quern {
namespace {

std::string folder() { return testing::TempDir(); }
std::vector<uint8_t> case_bytes(const std::string& name) { return read_bytes(QN_SOURCE_DIR "/tests/cases/npz/" + name, 1 << 20); }
std::string saved(const std::vector<uint8_t>& bytes) {
  const std::string path = folder() + "quern_damaged.npz";
  std::filesystem::remove(path);   // some file systems write at once what is truncated
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));   // not synced, as write_bytes is
  return path;
}
template <class F>
void throws(Code code, const std::string& part, F&& f) {
  try {
    f();
    ADD_FAILURE() << "accepted; wanted: " << part;
  } catch (const Error& e) {
    EXPECT_EQ(to_string(e.code), to_string(code)) << e.what();
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    EXPECT_FALSE(e.help.empty());
  }
}
void refused(const std::vector<uint8_t>& bytes, const std::string& part) {
  throws(Code::bad_npz, part, [&] {
    const Npz archive(saved(bytes));
    for (const std::string& name : archive.names()) archive.at(name);
  });
}
// `bytes` with the number at `at` behind the first, or last, place of the mark "PK..".
std::vector<uint8_t> with(std::vector<uint8_t> bytes, const char* mark, size_t at, size_t size, uint32_t value, bool last = false) {
  const std::string text(bytes.begin(), bytes.end()), head = std::string("PK") + mark;
  const size_t place = (last ? text.rfind(head) : text.find(head)) + at;
  std::memcpy(bytes.data() + place, &value, size);
  return bytes;
}
constexpr const char *kLocal = "\x03\x04", *kDirectory = "\x01\x02", *kEnd = "\x05\x06";

TEST(Npz, ReadsWhatNumpyWrites) {
  const Npz plain(QN_SOURCE_DIR "/tests/cases/npz/savez.npz");   // numpy.savez(f, a=numpy.arange(12, dtype='<f4').reshape(3, 4), b=numpy.int64(7))
  EXPECT_EQ(plain.names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(plain.at("a"), HostTensor::from(DType::f32, {3, 4}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
  EXPECT_EQ(plain.at("b"), HostTensor::full(DType::i64, {}, 7));
  const Npz packed(QN_SOURCE_DIR "/tests/cases/npz/savez_compressed.npz");   // numpy.savez_compressed(f, a=numpy.arange(12.).reshape(3, 4), b=True)
  EXPECT_EQ(packed.at("a"), HostTensor::from(DType::f64, {3, 4}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
  EXPECT_EQ(packed.at("b"), HostTensor::full(DType::boolean, {}, 1));
  throws(Code::unknown_tensor, "holds a, b", [&] { plain.at("xyzzy"); });
}

TEST(Npz, RoundTripsAndIsTheSameEveryTime) {
  const std::string path = folder() + "quern_round.npz";
  NamedTensors tensors;
  for (int d = 0; d < kDTypeCount; ++d)
    for (const Shape& shape : {Shape{}, Shape{3, 5}, Shape{0, 4}}) {
      const DType dtype = static_cast<DType>(d);
      if (npy_dtype(dtype) != dtype) continue;   // written as another, as below
      HostTensor t(dtype, shape);
      for (int64_t i = 0; i < t.size(); ++i) t.set(i, Scalar::of_int(dtype, i * 3));
      tensors.emplace_back(std::to_string(tensors.size()) + "/ü.npy", t);
    }
  save_npz(path, tensors);
  const std::vector<uint8_t> first = read_bytes(path, 1 << 20);
  const Npz back(path);
  ASSERT_EQ(back.names().size(), tensors.size());
  for (const auto& [name, t] : tensors) EXPECT_EQ(back.at(name), t) << name;
  save_npz(path, tensors);
  EXPECT_EQ(read_bytes(path, 1 << 20), first);
  save_npz(path, {{"h", HostTensor::full(DType::bf16, {2}, 0.5)}});
  EXPECT_EQ(Npz(path).at("h"), HostTensor::full(DType::f32, {2}, 0.5));
  save_npz(path, {});
  EXPECT_TRUE(Npz(path).names().empty());
  throws(Code::unknown_tensor, "no .npy", [&] { Npz(path).at("x"); });
  std::filesystem::remove(path);
}

TEST(Npz, RefusesTheRest) {
  const std::vector<uint8_t> plain = case_bytes("savez.npz"), packed = case_bytes("savez_compressed.npz");
  refused({}, "not a zip");
  refused(std::vector<uint8_t>(100000), "not a zip");
  refused(with(plain, kDirectory, 8, 2, 1), "encrypted");
  refused(with(plain, kDirectory, 10, 2, 12), "method 12");
  refused(with(plain, kDirectory, 24, 4, 0xffffffff), "zip64");
  refused(with(plain, kEnd, 16, 4, 0xffffffff), "zip64");
  refused(with(plain, kEnd, 4, 2, 1), "in several");
  refused(with(plain, kEnd, 8, 2, 1), "in several");
  refused(with(with(plain, kEnd, 8, 2, 500), kEnd, 10, 2, 500), "claims 500 members");
  refused(with(with(plain, kEnd, 8, 2, 1), kEnd, 10, 2, 1), "more than it says");
  refused(with(plain, kEnd, 12, 4, 7), "claims");
  refused(with(plain, kDirectory, 42, 4, 1), "not where the directory says");
  refused(with(plain, kDirectory, 42, 4, 0xfffffff0), "not where the directory says");
  refused(with(plain, kDirectory, 28, 2, 60000), "damaged");
  refused(with(plain, kLocal, 28, 2, 60000), "does not lie within");
  refused(with(plain, kDirectory, 46, 1, 'c'), "another name");
  refused(with(with(plain, kDirectory, 46, 1, 'a', true), kLocal, 30, 1, 'a', true), "there twice");
  refused(with(plain, kDirectory, 24, 4, 100), "claims 100 bytes");
  refused(with(plain, kDirectory, 16, 4, 1), "checksum");
  refused(with(packed, kDirectory, 24, 4, 2'000'000'000), "claims 2000000000 bytes");   // before anything is allocated
  refused(with(packed, kDirectory, 24, 4, 300), "does not unpack");
  refused(with(packed, kDirectory, 24, 4, 30), "does not unpack");
  refused(with(packed, kLocal, 60, 4, 0x12345678), "damaged");
  std::vector<uint8_t> comment = plain;   // allowed: what follows the end record is its comment
  comment[comment.size() - 2] = 3;
  comment.insert(comment.end(), {'a', 'b', 'c'});
  EXPECT_EQ(Npz(saved(comment)).names().size(), 2u);
  comment.push_back('d');
  refused(comment, "not a zip");
  std::filesystem::remove(saved({}));
}

TEST(Npz, EveryTruncationAndFlipIsAnErrorOrSoundTensors) {
  for (const char* name : {"savez.npz", "savez_compressed.npz"}) {
    const std::vector<uint8_t> good = case_bytes(name);
    const Npz sound(std::string(QN_SOURCE_DIR "/tests/cases/npz/") + name);
    for (size_t n = 0; n < good.size(); ++n) EXPECT_THROW(Npz(saved({good.begin(), good.begin() + static_cast<int64_t>(n)})), Error) << n;
    for (size_t bit = 0; bit < good.size() * 8; ++bit) {
      std::vector<uint8_t> bad = good;
      bad[bit / 8] = static_cast<uint8_t>(bad[bit / 8] ^ (1 << (bit % 8)));
      try {
        const Npz archive(saved(bad));
        for (const std::string& member : archive.names()) EXPECT_EQ(archive.at(member), sound.at(member == "a" ? "a" : "b"));   // checksums
      } catch (const Error& e) {
        EXPECT_EQ(e.kind == ErrorKind::bad_file || e.code == Code::unknown_tensor, true) << e.what();
      }
    }
  }
  std::filesystem::remove(saved({}));
}

TEST(Gzip, IsBoundedAndWhole) {
  // gzip.compress(b'a' * 100)
  const std::vector<uint8_t> good = {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 3, 0x4b, 0x4c, 0xa4, 0x3d, 0, 0, 0x64, 0x7a, 0x70, 0xaf, 0x64, 0, 0, 0};
  EXPECT_EQ(gunzip(good, 100, "f"), std::vector<uint8_t>(100, 'a'));
  throws(Code::file_too_large, "more than 99", [&] { gunzip(good, 99, "f"); });
  for (size_t n = 0; n < good.size(); ++n) throws(Code::bad_gzip, "f: damaged", [&] { gunzip({good.data(), n}, 100, "f"); });
  std::vector<uint8_t> wrong = good;
  wrong[16] ^= 1;
  throws(Code::bad_gzip, "damaged", [&] { gunzip(wrong, 100, "f"); });
}

}  // namespace
}  // namespace quern
