// The command: subcommands, exit statuses, help.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <new>

#include <fmt/format.h>

#include "ir/text.h"
#include "models/mlp.h"
#include "models/dataset.h"
#include "tools/commands.h"

namespace quern {

void ModelArgument::add_to(CLI::App& command) {
  command.add_option("model", name, "a registered model (mlp) or a .qir file")->required();
  command.add_option("--set", settings, "a model's setting, e.g. hidden=512,256; mlp: inputs, classes, hidden, batch, dropout")->allow_extra_args(false);
}

static std::vector<int64_t> numbers(const std::string& key, const std::string& text) {
  std::vector<int64_t> out;
  for (size_t at = 0; at <= text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    const std::string part = text.substr(at, comma - at);
    char* end = nullptr;
    const long long v = std::strtoll(part.c_str(), &end, 10);
    if (part.empty() || *end || v < 1 || v > 1000000) throw Error(ErrorKind::usage, fmt::format("--set {}={}: wants numbers from 1 to 1000000", key, text));
    out.push_back(v);
    at = comma + 1;
  }
  return out;
}

Graph ModelArgument::load() const {
  if (name == "mlp") {
    MlpConfig config{784, 10, {256}, 0};
    int64_t batch = 64;
    for (const std::string& s : settings) {
      const size_t equals = s.find('=');
      const std::string key = s.substr(0, equals), value = equals == std::string::npos ? "" : s.substr(equals + 1);
      if (key == "hidden") config.hidden = numbers(key, value);
      else if (key == "inputs") config.inputs = numbers(key, value)[0];
      else if (key == "classes") config.classes = numbers(key, value)[0];
      else if (key == "batch") batch = numbers(key, value)[0];
      else if (key == "dropout") config.dropout = std::atof(value.c_str());
      else throw Error(ErrorKind::usage, fmt::format("--set {}: mlp has the settings inputs, classes, hidden, batch and dropout", s));
    }
    return mlp_step(config, batch, {}, 1).graph;
  }
  if (!settings.empty()) throw Error(ErrorKind::usage, "--set is for registered models, not for files");
  if (name.size() < 4 || name.substr(name.size() - 4) != ".qir") throw Error(ErrorKind::usage, fmt::format("there is no model \"{}\"; registered models: mlp; a file must end in .qir", name));
  const std::vector<uint8_t> bytes = read_file(name, int64_t{1} << 30);
  return parse_graph(std::string(bytes.begin(), bytes.end()), name);
}

void JsonArgument::write(const Json& value) const {
  if (path.empty()) return;
  write_text(path, value.dump(2) + "\n");
}

void PassArguments::add_to(CLI::App& command) {
  command.add_option("--disable-pass", disabled, "leave out a pass (simplify, fold)")->allow_extra_args(false);
  command.add_option("--opt-bisect-limit", bisect_limit, "allow only the first N rewrites");
  command.add_flag("--print-ir-after-all", print_all, "print the graph after every pass");
  command.add_flag("--no-cache", no_cache, "neither read nor write the kernel cache");
}

CompileOptions PassArguments::options(const Target& target) const {
  CompileOptions o;
  o.target = target;
  o.passes.disabled = disabled;
  o.passes.bisect_limit = bisect_limit;
  o.use_cache = !no_cache;
  if (print_all) o.passes.after = [](const std::string& pass, const Graph& g) { std::cout << "after " << pass << ":\n" << to_string(g); };
  return o;
}

void write_text(const std::string& path, const std::string& text) {
  if (path.empty() || path == "-") {
    std::cout << text << std::flush;
    return;
  }
  std::ofstream out(path, std::ios::binary);
  out << text;
  out.close();
  if (!out) throw Error(ErrorKind::bad_file, fmt::format("{}: cannot be written", path));
}

void print_notes(const CompileReport& report) {
  for (const std::string& note : report.notes) std::cerr << "quern: " << note << "\n";
}

static int distance(const std::string& a, const std::string& b) {
  std::vector<int> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = above;
    }
  }
  return row[b.size()];
}

static int run(int argc, char** argv) {
  CLI::App root{"quern: compiles model graphs to kernels, trains them and checks them against a reference interpreter", "quern"};
  root.set_version_flag("--version", "quern " QN_VERSION);
  root.require_subcommand(1);
  root.footer("Examples:\n  quern train mlp --epochs 10\n  quern check mlp --target cpu --grad\n"
              "Exit status: 0 ok, 1 mismatch, 2 usage, 3 bad file, 4 compile error, 5 device, 6 memory, 7 bug in Quern");
  register_train(root);
  register_check(root);
  register_fuzz(root);
  register_dump(root);
  register_compile(root);
  register_run(root);
  register_bench(root);
  register_ops(root);
  register_doctor(root);
  register_cache(root);
  if (argc > 1 && argv[1][0] != '-') {
    std::string best;
    int least = 3;
    bool known = false;
    for (const CLI::App* c : root.get_subcommands({})) {
      known = known || c->get_name() == argv[1];
      if (const int d = distance(argv[1], c->get_name()); d < least) least = d, best = c->get_name();
    }
    if (!known) {
      std::cerr << fmt::format("quern: there is no command \"{}\"{}; see quern --help\n", argv[1], best.empty() ? "" : fmt::format("; did you mean \"{}\"?", best));
      return 2;
    }
  }
  try {
    root.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return root.exit(e) == 0 ? 0 : 2;
  }
  return 0;
}

}  // namespace quern

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_DFL);
  try {
    return quern::run(argc, argv);
  } catch (const quern::Error& e) {
    std::cerr << "quern: " << e.what() << "\n";
    return static_cast<int>(e.kind);
  } catch (const std::bad_alloc&) {
    std::cerr << "quern: out of memory; use a smaller model or batch\n";
    return 6;
  } catch (const std::exception& e) {
    std::cerr << "quern: this is a bug in Quern: " << e.what() << "\n";
    return 7;
  }
}
