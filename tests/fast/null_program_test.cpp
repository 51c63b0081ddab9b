// A program made by hand, as a file and on the null device: what a run does, step by step, and that a damaged file is
// either refused or a program that runs. Needs no compiler, so the sanitizer builds run it.
#include <cstring>
#include <functional>
#include <random>

#include <gtest/gtest.h>

#include "ir/support/hash.h"
#include "runtime/executable.h"

namespace quern {
namespace {

Slot slot(SlotKind kind, DType dtype, Shape shape, std::string name = "", int64_t offset = 0) {
  Slot s;
  s.kind = kind;
  s.dtype = dtype;
  s.shape = std::move(shape);
  s.name = std::move(name);
  s.offset = offset;
  return s;
}

// One input, one state, a constant, two places in the arena, a sub-range of the output, and every kind of step.
Program sample() {
  Program p;
  p.target = {TargetKind::cpu, "avx2"};
  p.graph_text = "graph () {\n}\n";
  KernelImage image;
  image.name = "k0_add";
  image.code = {0xc3, 0x90, 0x90};
  image.grid = 4;
  image.operands = 3;
  image.outputs = 1;
  image.scratch_bytes = 128;
  image.flops = 12;
  image.bytes = 96;
  image.lines = "mlp.h:12";
  p.images.push_back(image);
  p.slots = {slot(SlotKind::input, DType::f32, {2, 3}, "x"), slot(SlotKind::state, DType::i32, {}, "step"), slot(SlotKind::constant, DType::f32, {3}),
             slot(SlotKind::arena, DType::f32, {2, 3}), slot(SlotKind::arena, DType::boolean, {5}, "", 64), slot(SlotKind::output, DType::f32, {20}, "y"),
             slot(SlotKind::output, DType::f32, {2}, "", 64)};
  p.slots[2].value = HostTensor::full(DType::f32, {3}, 1.5);
  p.slots[6].parent = 5;
  p.inputs = {0};
  p.states = {1};
  p.outputs = {5};
  p.steps = {Copy{4, 4}, Launch{{0}, {0, 2, 3}}, Copy{1, 1}, Launch{{0}, {3, 4, 6}}};
  p.arena_bytes = 128;
  p.lower_bound = 69;
  return p;
}

std::string transcript_of(const Program& p) {
  std::string transcript;
  const auto device = open_device("null", &transcript);
  Executable e(*device, p);
  for (int64_t s : p.states) e.set_state(p.slots[static_cast<size_t>(s)].name, HostTensor(p.slots[static_cast<size_t>(s)].dtype, p.slots[static_cast<size_t>(s)].shape));
  for (size_t i = 0; i < p.inputs.size(); ++i) {
    const Slot& s = p.slots[static_cast<size_t>(p.inputs[i])];
    e.set_input(static_cast<int64_t>(i), HostTensor(s.dtype, s.shape));
  }
  e.run();
  for (size_t i = 0; i < p.outputs.size(); ++i) e.output(static_cast<int64_t>(i));
  return transcript;
}

TEST(NullProgram, TranscriptIsWhatTheProgramSays) {
  const std::string text = transcript_of(sample());
  const size_t runs = text.find("upload m1");   // allocation order is the executable's business
  ASSERT_NE(runs, std::string::npos) << text;
  for (const char* line : {"load k0_add 3 bytes\n", "alloc m0 128\n", "copy m0+64 m0+64 5\n", " grid 4 m1 m3 m0\n", " grid 4 m0 m0+64 m4+64\n", "copy m2 m2 4\n", "download m4 80\n"})
    EXPECT_NE(text.find(line), std::string::npos) << line << "is missing in\n" << text;
  EXPECT_LT(text.find("copy"), text.find("launch"));
  EXPECT_EQ(text.find("0x"), std::string::npos);
  EXPECT_EQ(planned_bytes(sample(), 2), 128 + 64 + 64 + 64 + 128 + 2 * 128);
}

// Setup: the constant and the state are copied once, what is kept of them is read in every run.
Program with_setup() {
  Program p = sample();
  p.slots.push_back(slot(SlotKind::kept, DType::f32, {3}));
  p.slots.push_back(slot(SlotKind::kept, DType::i32, {}));
  p.slots.push_back(slot(SlotKind::arena, DType::i32, {}));
  p.setup = {Copy{2, 7}, Copy{1, 8}};
  p.steps.push_back(Copy{8, 9});
  return p;
}

TEST(NullProgram, SetupRunsBeforeRunsThatFollowItsStates) {
  const Program p = load_program(save_program(with_setup()), "p.qpk");
  std::string transcript;
  const auto device = open_device("null", &transcript);
  Executable e(*device, p);
  e.set_input(0, HostTensor(DType::f32, {2, 3}));
  e.set_state("step", HostTensor(DType::i32, {}));
  const auto run = [&] {
    transcript.clear();
    e.run();
    return transcript;
  };
  const std::string first = run(), second = run();
  EXPECT_TRUE(first.ends_with(second)) << first << second;
  EXPECT_EQ(first.substr(0, first.size() - second.size()), "copy m5 m3 12\ncopy m6 m2 4\n");
  e.set_input(0, HostTensor(DType::f32, {2, 3}));
  EXPECT_EQ(run(), second);
  e.set_state("step", HostTensor(DType::i32, {}));
  EXPECT_EQ(run(), first);
  EXPECT_EQ(run(), second);
  EXPECT_EQ(kept_bytes(p), 2 * 64);
  EXPECT_EQ(planned_bytes(p, 2), planned_bytes(sample(), 2) + 2 * 64);
}

TEST(NullProgram, SetupAndStepsWriteWhatIsTheirs) {
  const auto refused = [](const char* what, const std::function<void(Program&)>& forge) {
    Program p = with_setup();
    EXPECT_NO_THROW(load_program(save_program(p), "p.qpk"));
    forge(p);
    EXPECT_THROW(load_program(save_program(p), "p.qpk"), Error) << what;
  };
  refused("a step that writes what setup keeps", [](Program& p) { p.steps.push_back(Copy{2, 7}); });
  refused("a launch that does", [](Program& p) { p.slots[7].shape = {2, 3}, p.setup.clear(), p.steps = {Launch{{0}, {0, 2, 7}}}; });
  refused("setup that writes a state", [](Program& p) { p.setup.push_back(Copy{8, 1}); });
  refused("setup that writes a constant", [](Program& p) { p.setup.push_back(Copy{7, 2}); });
  refused("setup that writes an output", [](Program& p) { p.slots[7].shape = {20}, p.setup = {Copy{7, 5}}; });
  refused("setup that reads an input", [](Program& p) { p.slots[7].shape = {2, 3}, p.setup = {Copy{0, 7}}; });
  refused("setup in a loop that does", [](Program& p) { p.loops = 1, p.setup.push_back(Loop{0, 2, {Copy{8, 1}}}); });
  refused("setup that launches into a state", [](Program& p) { p.setup = {Launch{{0}, {2, 2, 1}}}; });
  refused("a part of a state for what is kept", [](Program& p) { p.slots[8].parent = 1; });
}

TEST(NullProgram, FilesRoundTrip) {
  const Program p = sample();
  const std::vector<uint8_t> bytes = save_program(p);
  const Program q = load_program(bytes, "p.qpk");
  EXPECT_EQ(save_program(q), bytes);
  EXPECT_EQ(transcript_of(q), transcript_of(p));
  EXPECT_EQ(q.slots[2].value, p.slots[2].value);
  EXPECT_EQ(q.images[0].lines, "mlp.h:12");
}

TEST(NullProgram, EveryFlippedBitAndEveryTruncationIsRefused) {
  const std::vector<uint8_t> bytes = save_program(with_setup());
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    std::vector<uint8_t> damaged = bytes;
    damaged[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
    EXPECT_THROW(load_program(damaged, "p.qpk"), Error) << bit;
  }
  for (size_t n = 0; n < bytes.size(); ++n) EXPECT_THROW(load_program({bytes.begin(), bytes.begin() + static_cast<int64_t>(n)}, "p.qpk"), Error) << n;
}

// A constant's rows, one in each step: a slot without a value of its own.
TEST(NullProgram, PartsOfConstantsAreLoaded) {
  Program p = sample();
  p.slots.push_back(slot(SlotKind::constant, DType::f32, {}));
  Slot& row = p.slots.back();
  row.parent = 2, row.loop = 0, row.stride = 4, row.step = 1, row.entries = 3;
  p.slots.push_back(slot(SlotKind::arena, DType::f32, {}));
  p.loops = 1;
  p.steps.push_back(Loop{0, 3, {Copy{7, 8}}});
  const Program q = load_program(save_program(p), "p.qpk");
  const std::string text = transcript_of(q);
  EXPECT_EQ(text, transcript_of(p));
  EXPECT_NE(text.find("copy m0 m3+8 4\n"), std::string::npos) << text;
}

TEST(NullProgram, ForgedNumbersAreRefused) {
  const auto refused = [](const char* what, const std::function<void(Program&)>& forge) {
    Program p = sample();
    p.slots.push_back(slot(SlotKind::arena, DType::f32, {3}));
    Slot& row = p.slots.back();
    row.parent = 3, row.loop = 0, row.stride = 12, row.step = 1, row.entries = 2;
    p.loops = 1;
    p.steps.push_back(Loop{0, 2, {Copy{7, 7}}});
    EXPECT_NO_THROW(load_program(save_program(p), "p.qpk"));
    forge(p);
    EXPECT_THROW(load_program(save_program(p), "p.qpk"), Error) << what;
  };
  refused("a step without an absolute value", [](Program& p) { p.slots.back().step = INT64_MIN; });
  refused("a grid that overflows with workers", [](Program& p) { p.images[0].grid = INT64_MAX; });
  refused("CUDA code that is none", [](Program& p) { p.target = {TargetKind::cuda, "sm_90a"}; });
}

void put(std::vector<uint8_t>& to, size_t at, uint64_t value, size_t bytes) { std::memcpy(to.data() + at, &value, bytes); }
std::vector<uint8_t> smallest_cubin() {
  std::vector<uint8_t> elf(64 + 2 * 64 + 16);   // a head, a null section, one of 16 bytes
  std::memcpy(elf.data(), "\177ELF\2\1\1", 7);
  put(elf, 40, 64, 8), put(elf, 54, 56, 2), put(elf, 58, 64, 2), put(elf, 60, 2, 2), put(elf, 62, 1, 2);
  put(elf, 128 + 4, 1, 4), put(elf, 128 + 24, 192, 8), put(elf, 128 + 32, 16, 8);
  return elf;
}

// The driver gets CUDA code without its length: the file's own tables must lie within.
TEST(NullProgram, CubinsLieWithinTheirImage) {
  Program p = sample();
  p.target = {TargetKind::cuda, "sm_90a"};
  std::vector<uint8_t> elf = smallest_cubin();
  const auto loads = [&](const std::vector<uint8_t>& code) {
    p.images[0].code = code;
    try {
      load_program(save_program(p), "p.qpk");
      return true;
    } catch (const Error& e) {
      EXPECT_EQ(e.code, Code::damaged_package) << e.what();
      return false;
    }
  };
  EXPECT_TRUE(loads(elf));
  for (size_t n = 0; n < elf.size(); ++n) EXPECT_FALSE(loads({elf.begin(), elf.begin() + static_cast<int64_t>(n)})) << n;
  const auto forged = [&](size_t at, uint64_t value, size_t bytes) {
    std::vector<uint8_t> code = elf;
    put(code, at, value, bytes);
    return code;
  };
  EXPECT_FALSE(loads(forged(0, 'E', 1)));
  EXPECT_FALSE(loads(forged(40, UINT64_MAX - 64, 8)));   // the table of sections
  EXPECT_FALSE(loads(forged(60, 3, 2)));                 // how many there are
  EXPECT_FALSE(loads(forged(128 + 32, 17, 8)));          // a section beyond the end
  put(elf, 56, 1, 2);
  EXPECT_FALSE(loads(forged(32, 1000, 8)));              // the table of segments
}

// What a tensor map reaches lies in its operand, and the driver takes it.
TEST(NullProgram, TensorMapsLieWithinTheirOperands) {
  Program p = sample();
  p.target = {TargetKind::cuda, "sm_90a"};
  p.images[0].code = smallest_cubin();
  p.images[0].resident = 1;
  const Launch& launch = std::get<Launch>(static_cast<Step::variant&>(*std::find_if(p.steps.begin(), p.steps.end(), [](const Step& s) { return std::holds_alternative<Launch>(s); })));
  const int64_t elements = p.slots[static_cast<size_t>(launch.slots[0])].bytes() / 4;
  TensorMap m{0, static_cast<int64_t>(DType::f32), 1, 128};
  m.extents[0] = elements, m.strides[0] = 4, m.box[0] = 32;
  p.images[0].maps = {m};
  const auto loaded = [&] { return load_program(save_program(p), "p.qpk"); };
  EXPECT_EQ(loaded().images[0].maps, p.images[0].maps);
  EXPECT_EQ(loaded().images[0].resident, 1);
  p.images[0].waits = 1;
  EXPECT_EQ(loaded().images[0].waits, 1);
  p.images[0].alone = 1;
  EXPECT_EQ(loaded().images[0].alone, 1);
  const auto refused = [&](const char* what, const std::function<void(TensorMap&)>& forge) {
    p.images[0].maps = {m};
    forge(p.images[0].maps[0]);
    EXPECT_THROW(loaded(), Error) << what;
  };
  refused("an extent past the operand", [](TensorMap& m) { ++m.extents[0]; });
  refused("a stride past it", [](TensorMap& m) { m.strides[0] = int64_t{1} << 39; });
  refused("no such operand", [&](TensorMap& m) { m.operand = p.images[0].operands; });
  refused("a negative one", [](TensorMap& m) { m.operand = -1; });
  refused("six dims", [](TensorMap& m) { m.rank = 6; });
  refused("a dtype that is none", [](TensorMap& m) { m.dtype = 99; });
  refused("a wide box", [](TensorMap& m) { m.box[0] = 257; });
  refused("a dim that is not there", [](TensorMap& m) { m.symbol = 1, m.along = 1; });
  refused("rows of 100 bytes", [](TensorMap& m) { m.row_bytes = 100; });
}

TEST(NullProgram, PackagesOfTwoGigabytesAreNotWritten) {
  Program p = sample();
  p.slots[2].shape = {int64_t{1} << 29};   // its value is not looked at
  try {
    save_program(p);
    ADD_FAILURE() << "saved";
  } catch (const Error& e) {
    EXPECT_EQ(e.code, Code::file_too_large);
    EXPECT_FALSE(e.help.empty());
  }
}

// Behind the checksum: bytes are changed and the checksum is made to match. What loads must run.
TEST(NullProgram, ForgedFilesAreRefusedOrRun) {
  const std::vector<uint8_t> bytes = save_program(with_setup());
  constexpr size_t kHead = 24;
  std::mt19937 random(7);
  int refused = 0, ran = 0;
  for (int round = 0; round < 6000; ++round) {
    std::vector<uint8_t> forged = bytes;
    for (uint32_t change = 0; change <= random() % 3; ++change) {
      const size_t at = kHead + random() % (forged.size() - kHead);
      const uint8_t values[] = {0, 1, 0x7f, 0x80, 0xff, static_cast<uint8_t>(random())};
      forged[at] = values[random() % 6];
    }
    const uint64_t checksum = hash64({reinterpret_cast<const char*>(forged.data()) + kHead, forged.size() - kHead});
    std::memcpy(forged.data() + 16, &checksum, 8);
    try {
      const Program p = load_program(forged, "p.qpk");
      if (!(p.target == sample().target) || planned_bytes(p, 1) > (1 << 24)) continue;   // another device's, or too large to try
      transcript_of(p);
      ++ran;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind, ErrorKind::bad_file) << e.what();
      ++refused;
    }
  }
  std::printf("%d forged files refused, %d ran\n", refused, ran);
  EXPECT_GT(refused, 500);
  EXPECT_GT(ran, 500);
}

}  // namespace
}  // namespace quern
