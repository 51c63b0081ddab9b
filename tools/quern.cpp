// The command: subcommands, exit statuses, help.
#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <new>
#include <system_error>

#include <fcntl.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "ir/support/env.h"
#include "ir/support/file.h"
#include "ir/support/memory.h"
#include "ir/support/suggest.h"
#include "ir/text.h"
#include "models/dataset.h"
#include "models/mlp.h"
#include "models/zoo.h"
#include "tools/commands.h"
#include "tools/diagnostics.h"

namespace quern {

void ModelArgument::add_to(CLI::App& command) {
  command.add_option("model", name, fmt::format("a registered model (mlp, {}), a .qir or an .onnx file", fmt::join(zoo::names(), ", ")))->required();
  command.add_option("--set", settings, "a model's setting, e.g. hidden=512,256; mlp: inputs, classes, hidden, dropout, clip, batch (batch=1..4096: one program for all these sizes); gpt: batch, time, layers, width, heads, vocabulary, clip (clip=1.0: gradients together are no longer than that); lstm: batch, steps, in, hidden")->allow_extra_args(false);
  onnx.add_to(command);
}

[[noreturn]] static void bad_setting(const Setting& s, const std::string& wants) {
  throw Error(Code::bad_setting, fmt::format("--set {}={}: wants {}", s.key, s.value, wants)).with_help(fmt::format("e.g. --set {}", s.key == "hidden" ? "hidden=512,256" : s.key == "dropout" ? "dropout=0.2"
                                                                                                                                                                        : s.key == "clip"      ? "clip=1.0"
                                                                                                                                                                                               : s.key + "=64"));
}

Setting::Setting(const std::string& text, const std::vector<std::string>& known) {
  const size_t equals = text.find('=');
  key = text.substr(0, equals);
  if (equals != std::string::npos) value = text.substr(equals + 1);
  if (std::find(known.begin(), known.end(), key) == known.end())
    throw Error(Code::bad_setting, fmt::format("--set {}: there is no setting \"{}\"; settings are {}", text, key, fmt::join(known, ", "))).with_help(suggestion(key, known, "e.g. --set hidden=512,256"));
}

std::vector<int64_t> Setting::numbers() const {
  static constexpr const char* kWants = "numbers from 1 to 1000000, separated by commas";
  std::vector<int64_t> out;
  for (size_t at = 0; at <= value.size();) {
    const size_t comma = std::min(value.find(',', at), value.size());
    int64_t v = 0;
    const auto [end, error] = std::from_chars(value.data() + at, value.data() + comma, v);
    if (error != std::errc() || end != value.data() + comma || v < 1 || v > 1000000) bad_setting(*this, kWants);
    out.push_back(v);
    at = comma + 1;
  }
  if (out.size() > 1000) bad_setting(*this, "at most 1000 sizes");
  return out;
}
int64_t Setting::number() const {
  const std::vector<int64_t> all = numbers();
  if (all.size() != 1) bad_setting(*this, "one number from 1 to 1000000");
  return all[0];
}
std::pair<int64_t, int64_t> Setting::range() const {
  const size_t dots = value.find("..");
  if (dots == std::string::npos) return {number(), number()};
  Setting low = *this, high = *this;
  low.value = value.substr(0, dots);
  high.value = value.substr(dots + 2);
  if (low.number() > high.number()) bad_setting(*this, "a size, or bounds like 1..4096");
  return {low.number(), high.number()};
}
// The number, or a NaN where the text is none.
static double real_number(const std::string& text) {
  char* end = nullptr;
  const double v = std::strtod(text.c_str(), &end);
  return text.empty() || *end ? std::nan("") : v;
}
double Setting::rate() const {
  const double v = real_number(value);
  if (!(v >= 0 && v < 1)) bad_setting(*this, "a number in [0, 1)");
  return v;
}
double Setting::positive() const {
  const double v = real_number(value);
  if (!(v > 0 && v < 1e6)) bad_setting(*this, "a number above 0");
  return v;
}

void want_affordable(const MlpConfig& config, int64_t batch) {
  double parameters = 0, width = static_cast<double>(config.inputs), rows = width;
  for (int64_t h : config.hidden) parameters += (width + 1) * static_cast<double>(h), rows += width = static_cast<double>(h);
  parameters += (width + 1) * static_cast<double>(config.classes);
  want_memory("a model", 4 * (3 * parameters + static_cast<double>(batch) * rows));   // with two moments
}

Graph ModelArgument::load(const PassArguments& passes, NamedTensors* weights) const {
  if (name == "mlp") {
    MlpConfig config{784, 10, {256}, 0};
    Optimizer optimizer{.loss_scale = passes.loss_scale()};
    Batch batch = 64;
    for (const std::string& text : settings) {
      const Setting s(text, {"inputs", "classes", "hidden", "batch", "dropout", "clip"});
      if (s.key == "hidden") config.hidden = s.numbers();
      else if (s.key == "inputs") config.inputs = s.number();
      else if (s.key == "classes") config.classes = s.number();
      else if (s.key == "batch") batch = {s.range().first, s.range().second};
      else if (s.key == "clip") optimizer.clip_norm = s.positive();
      else config.dropout = s.rate();
    }
    want_affordable(config, batch.high);
    return mlp_step(config, batch, optimizer, 1).graph;
  }
  if (name == "gpt") {
    zoo::GptSize size;
    Optimizer optimizer = zoo::kAdamW;
    optimizer.loss_scale = passes.loss_scale();
    for (const std::string& text : settings) {
      const Setting s(text, {"batch", "time", "layers", "width", "heads", "vocabulary", "clip"});
      if (s.key == "clip") {
        optimizer.clip_norm = s.positive();
        continue;
      }
      (s.key == "batch" ? size.batch : s.key == "time" ? size.time
                                   : s.key == "layers" ? size.layers
                                   : s.key == "width"  ? size.width
                                   : s.key == "heads"  ? size.heads
                                                       : size.vocabulary) = s.number();
    }
    if (size.width % size.heads) throw Error(Code::bad_setting, fmt::format("--set heads={}: {} does not divide the width of {}", size.heads, size.heads, size.width)).with_help("--set width=768 --set heads=12");
    const double width = static_cast<double>(size.width);   // parameters start as zeros, each with two moments
    want_memory("a model", 12 * width * (static_cast<double>(size.vocabulary + std::max<int64_t>(size.time, 1024)) + 13 * width * static_cast<double>(size.layers)));
    return zoo::gpt_step(size, optimizer).graph;
  }
  if (name == "lstm") {
    zoo::LstmSize size;
    for (const std::string& text : settings) {
      const Setting s(text, {"batch", "steps", "in", "hidden"});
      (s.key == "batch" ? size.batch : s.key == "steps" ? size.steps
                                   : s.key == "in"      ? size.in
                                                        : size.hidden) = s.number();
    }
    const double hidden = static_cast<double>(size.hidden);   // the gates of all steps, and what is kept of them
    want_memory("a model", 32 * hidden * (hidden + static_cast<double>(size.in) + 2 * static_cast<double>(size.batch) * static_cast<double>(size.steps)));
    return zoo::lstm_gradients(size).graph;
  }
  if (!settings.empty()) throw Error(Code::bad_setting, "--set is for the models mlp, gpt and lstm").with_help("leave it out, or name one of these");
  if (auto step = zoo::build(name, passes.loss_scale())) return std::move(step->graph);
  if (name.size() > 5 && name.substr(name.size() - 5) == ".onnx") {
    onnx::Imported imported = onnx::import_file(name, onnx.options());
    if (weights) *weights = std::move(imported.weights);
    return std::move(imported.graph);
  }
  if (name.size() < 4 || name.substr(name.size() - 4) != ".qir")
    throw Error(Code::unknown_model, fmt::format("there is no model \"{}\"; registered models: mlp, {}; a file must end in .qir or .onnx", name, fmt::join(zoo::names(), ", "))).with_help(suggestion(name, {"mlp"}, "`quern dump mlp -o model.qir` writes a file to start from"));
  const std::vector<uint8_t> bytes = read_file(name, int64_t{1} << 30);
  return parse_graph(std::string(bytes.begin(), bytes.end()), name);
}

CLI::Option* add_output(CLI::App& command, const std::string& flag, std::string& path, const std::string& help) {
  return command.add_option(flag, path, help)->each([](const std::string& p) {
    if (p != "-") want_writable(p);
  });
}

void JsonArgument::write(const Json& value) const {
  if (path.empty()) return;
  write_text(path, value.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");   // names may be any bytes
}

void add_matmul(CLI::App& command, std::string& matmul) {
  command.add_option("--matmul", matmul, "cuda: how products of f32 are computed: as such; tf32: operands rounded to 11 bits, on tensor cores; tf32x3: all but the last bits of both operands, on tensor cores in three products; f8: as such, but products of 8-bit floats that are cast up are those of sm_90a's tensor cores, 14 bits of the sums of 128 terms, which are added up in f32")->check(CLI::IsMember(std::vector<std::string>(std::begin(kF32Products), std::end(kF32Products))))->capture_default_str();
}
F32Products f32_products(const std::string& matmul) { return static_cast<F32Products>(std::find(std::begin(kF32Products), std::end(kF32Products), matmul) - std::begin(kF32Products)); }

void PassArguments::add_to(CLI::App& command) {
  command.add_option("--disable-pass", disabled, "leave out a pass (simplify, fold, loops, reassociate, scores, chunks, align, panels, remat, setup, ordered, precision or clusters)")->allow_extra_args(false);
  command.add_option("--opt-bisect-limit", bisect_limit, "allow only the first N rewrites");
  command.add_flag("--print-ir-after-all", print_all, "print the graph after every pass, to standard error");
  command.add_option("--memory-limit", memory_limit, "bytes of temporaries, e.g. 64MiB: what does not fit is computed once more, and said")->transform(CLI::AsSizeValue(false));
  command.add_option("--fp", fp, "strict: products and sums as the graph has them, whatever they cost; default: kernels may make sums over a product they do not keep in another order, and leave out what a mask hides; fast: besides, bf16 and f16 stay in f32 between the ops of a kernel, and on a GPU what reads or makes them takes the machine's exponentials, quotients and error functions")->check(CLI::IsMember({"strict", "default", "fast"}));
  command.add_option("--precision", precision, "f32, or bf16 or f16: products of f32 read it, sum in f32 and give it, maps between them are of it; parameters, their gradients, reductions, softmax, norms, losses and updates stay f32. Registered training steps scale their loss for f16, and others must")->check(CLI::IsMember({"f32", "bf16", "f16"}));
  add_matmul(command, matmul);
  command.add_option("--plan", plan, "a plan file that quern tune has written for this target: schedules of kernels, which change no result");
  command.add_flag("--no-cache", no_cache, "neither read nor write the kernel cache");
}

double PassArguments::loss_scale() const { return precision == "f16" ? kLossScale : 0; }

CompileOptions PassArguments::options(const Target& target) const {
  CompileOptions o;
  o.target = target;
  o.passes.fp = fp == "strict" ? Fp::strict : fp == "fast" ? Fp::fast : Fp::standard;
  if (precision != "f32") o.passes.compute = precision == "bf16" ? DType::bf16 : DType::f16;
  o.f32_products = f32_products(matmul);
  if (o.f32_products == F32Products::f8 && !(target.kind == TargetKind::cuda && target.arch == "sm_90a")) throw Error(Code::bad_value, fmt::format("--matmul f8 is for the tensor cores of sm_90a, not for {}", to_string(target))).with_help("without it products of 8-bit floats are those of what they are cast to");
  o.passes.disabled = disabled;
  o.passes.bisect_limit = bisect_limit;
  o.passes.memory_limit = memory_limit;
  if (!plan.empty()) o.plan = load_plan(plan);
  o.use_cache = !no_cache;
  if (print_all) o.passes.after = [](const std::string& pass, const Graph& g) { std::cerr << "after " << pass << ":\n" << to_string(g); };
  return o;
}

void write_text(const std::string& path, const std::string& text) {
  if (!path.empty() && path != "-") return write_bytes(path, {text});
  std::fflush(stdout);   // in the order of printing, whichever way
  std::cout << text << std::flush;
}

void print_notes(const CompileReport& report) {
  for (const std::string& note : report.notes) std::cerr << "quern: " << visible(note) << "\n";
}

double TimeBudget::since_last() {
  const auto now = Clock::now();
  return std::chrono::duration<double, std::milli>(now - std::exchange(last_, now)).count();
}
void TimeBudget::lap(const std::string& phase) { phases_.emplace_back(phase, since_last()); }
void TimeBudget::lap(const CompileReport& report, const std::string& rest) {
  double left = since_last();
  for (const auto& [phase, ms] : report.times) {
    left -= ms;
    phases_.emplace_back(phase, ms);
  }
  phases_.emplace_back(rest, left);
  parts_ = report.parts;
  program_ = report.program;
}
void TimeBudget::print(std::FILE* out) const {
  const double total = std::chrono::duration<double, std::milli>(last_ - start_).count();
  for (const auto& [phase, ms] : phases_) {
    fmt::print(out, "  {:<16} {:9.2f} ms {:5.1f} %\n", phase, ms, 100 * ms / total);
    if (phase != "images") continue;
    for (const auto& [part, of_threads] : parts_) fmt::print(out, "    {:<14} {:9.2f} ms of all threads\n", part, of_threads);
  }
  fmt::print(out, "  {:<16} {:9.2f} ms; program {}\n", "total", total, program_);
}

// What CLI11 refuses, with a suggestion for a mistyped flag; `at` is the command that was meant.
static Error parse_error(const CLI::ParseError& e, const CLI::App& at, const std::vector<std::string>& rest) {
  std::string name;
  for (const CLI::App* c = &at; c->get_parent(); c = c->get_parent()) name = " " + c->get_display_name() + name;
  name = "quern" + name;
  const std::string help = "`" + name + " --help` shows what there is";
  if (!rest.empty() && dynamic_cast<const CLI::ExtrasError*>(&e)) {
    const std::string word = rest[0].substr(0, rest[0].find('='));
    std::vector<std::string> flags;
    for (const CLI::Option* o : at.get_options())
      for (const std::string& l : o->get_lnames()) flags.push_back("--" + l);
    const auto has = [&](const char* flag) { return std::find(flags.begin(), flags.end(), flag) != flags.end(); };
    Error out(Code::unknown_flag, fmt::format("{} does not take {}", name, word));
    if (word == "--device" && has("--target")) return out.with_help("what to compile for is --target, e.g. --target cuda:sm_90a; --device says where `run`, `train` and `bench` run");
    if (word == "--target" && has("--device")) return out.with_help("where to run is --device, e.g. --device cuda:0; --target says what `compile`, `check` and `dump` compile for");
    return out.with_help(suggestion(word, flags, help));
  }
  if (const auto below = at.get_subcommands([](const CLI::App*) { return true; }); !below.empty() && dynamic_cast<const CLI::RequiredError*>(&e)) {
    std::string list;
    for (const CLI::App* c : below) list += (list.empty() ? "" : ", ") + c->get_name();
    return Error(Code::missing_argument, name + ": a command is missing").with_help("give one of: " + list);
  }
  const bool missing = dynamic_cast<const CLI::RequiredError*>(&e) != nullptr;
  return Error(missing ? Code::missing_argument : Code::bad_value, fmt::format("{}: {}", name, e.what())).with_help(help);
}

// The flag of the whole command, before or behind the subcommand, taken out of the words: it must hold for errors of
// parsing, too.
static ErrorFormat take_error_format(std::vector<std::string>& words) {
  static constexpr std::string_view kFlag = "--error-format";
  ErrorFormat format = ErrorFormat::human;
  for (size_t i = 0; i < words.size();) {
    if (words[i] == kFlag) {
      if (i + 1 == words.size()) throw Error(Code::missing_argument, "--error-format wants human, short or json").with_help("human is the default");
      format = parse_error_format(words[i + 1]);
      words.erase(words.begin() + static_cast<int64_t>(i), words.begin() + static_cast<int64_t>(i) + 2);
    } else if (words[i].rfind("--error-format=", 0) == 0) {
      format = parse_error_format(words[i].substr(kFlag.size() + 1));
      words.erase(words.begin() + static_cast<int64_t>(i));
    } else {
      ++i;
    }
  }
  return format;
}

static int run(std::vector<std::string> words) {
  CLI::App root{"quern: compiles model graphs to kernels, trains them and checks them against a reference interpreter", "quern"};
  root.set_version_flag("--version", "quern " QN_VERSION);
  root.require_subcommand(1);
  std::string format;   // taken out of the words before; here for --help
  root.add_option("--error-format", format, "how errors are printed: human, short (one line) or json (one object)");
  root.footer("Examples:\n  quern train mlp --epochs 10\n  quern check mlp --target cpu --grad\n"
              "Exit status: 0 ok, 1 mismatch, 2 usage, 3 bad file, 4 compile error, 5 device, 6 memory, 7 bug in Quern");
  register_train(root);
  register_check(root);
  register_fuzz(root);
  register_dump(root);
  register_compile(root);
  register_run(root);
  register_import(root);
  register_conformance(root);
  register_bench(root);
  register_profile(root);
  register_tune(root);
  register_ops(root);
  register_doctor(root);
  register_cache(root);
  register_explain(root);
  if (!words.empty() && (words[0].empty() || words[0][0] != '-')) {
    std::vector<std::string> names;
    for (const CLI::App* c : root.get_subcommands({})) names.push_back(c->get_name());
    if (std::find(names.begin(), names.end(), words[0]) == names.end())
      throw Error(Code::unknown_command, fmt::format("there is no command \"{}\"", words[0])).with_help(suggestion(words[0], names, "`quern --help` lists them"));
  }
  std::reverse(words.begin(), words.end());   // as CLI11 wants them
  try {
    root.parse(words);
  } catch (const CLI::Success& e) {   // --help, --version
    root.exit(e);
  } catch (const CLI::ParseError& e) {
    const CLI::App* at = &root;
    while (!at->get_subcommands().empty()) at = at->get_subcommands()[0];
    throw parse_error(e, *at, root.remaining(true));
  }
  return 0;
}

// A closed standard stream would give its number to the next file that is opened, and output would go there.
static void occupy_standard_streams() {
  for (int fd = 0; fd < 3; ++fd)
    if (::fcntl(fd, F_GETFD) < 0 && errno == EBADF) ::open("/dev/null", fd == 1 ? O_RDONLY : O_RDWR);   // writing to 1 fails, as it should
}

// True if everything printed so far arrived.
static bool output_arrived() {
  std::cout.flush();
  return std::fflush(stdout) == 0 && !std::ferror(stdout) && std::cout.good();
}

static int report(const Error& e, ErrorFormat format) {
  std::fflush(stdout);
  std::cerr << render(e, format);
  return static_cast<int>(e.kind);
}

static Error lost_output() { return Error(Code::cannot_write, "standard output cannot be written").with_help("is it closed, or its disk full?"); }

static int guarded_main(std::vector<std::string> words) {
  ErrorFormat format = ErrorFormat::human;
  try {
    format = take_error_format(words);
    for (const std::string& warning : unknown_variables()) std::cerr << "quern: warning: " << visible(warning) << "\n";
    const int status = run(std::move(words));
    return output_arrived() ? status : report(lost_output(), format);
  } catch (const Error& e) {
    return report(e, format);
  } catch (const std::bad_alloc&) {
    return report(Error(Code::out_of_memory, "out of memory").with_help("use a smaller model or batch"), format);
  } catch (const std::length_error&) {   // a container beyond its largest size
    return report(Error(Code::out_of_memory, "out of memory").with_help("use a smaller model or batch"), format);
  } catch (const std::system_error& e) {   // fmt::print cannot write, or std::thread cannot start
    if (!output_arrived()) return report(lost_output(), format);
    return report(Error(Code::system_refuses, fmt::format("the system refuses: {}", e.what())).with_help("free some threads or memory, or set QUERN_THREADS=1"), format);
  } catch (const std::exception& e) {
    return report(Error(Code::general_bug, fmt::format("this is a bug in Quern: {}", e.what())).with_help("please report it with the command line"), format);
  }
}

}  // namespace quern

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_DFL);
  std::signal(SIGXFSZ, SIG_IGN);   // a file beyond `ulimit -f` is an error of writing, not the end
  quern::occupy_standard_streams();
  return quern::guarded_main(std::vector<std::string>(argv + std::min(argc, 1), argv + argc));
}
