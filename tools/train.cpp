// quern train: trains a registered model and reports loss, accuracy and times.
#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>

#include <fmt/format.h>
#include <unistd.h>

#include "frontend/checkpoint.h"
#include "ir/support/suggest.h"
#include "models/dataset.h"
#include "models/trainer.h"
#include "tools/commands.h"

namespace quern {
namespace {

struct Arguments {
  std::string model, device = "cpu", data, algorithm = "adam", schedule = "cosine", checkpoint;
  std::vector<std::string> settings;
  int64_t epochs = 0, batch = 0, steps = -1, seeds = 1;
  uint32_t seed = 1;
  std::optional<double> rate;
  double decay = 0, clip = 0;
  bool losses = false;
  PassArguments passes;
  JsonArgument json;
};

void draw_progress(int64_t step, int64_t steps, double loss) {
  if (!::isatty(2)) return;
  if (step % 8 && step != steps) return;
  constexpr int kWidth = 30;
  const int done = static_cast<int>(kWidth * step / steps);
  std::fprintf(stderr, "\r[%-*s] %3d %%  step %ld/%ld  loss %.4f%s", kWidth, std::string(static_cast<size_t>(done), '=').c_str(), static_cast<int>(100 * step / steps), static_cast<long>(step),
               static_cast<long>(steps), loss, step == steps ? "\n" : "");
}

void train(const Arguments& a) {
  if (a.model != "mlp") throw Error(Code::unknown_model, fmt::format("there is no model \"{}\" to train; registered models: mlp", a.model)).with_help(suggestion(a.model, {"mlp"}, "quern train mlp"));
  TrainOptions o;
  if (a.rate && !(*a.rate > 0 && *a.rate < 1e6)) throw Error(Code::bad_value, fmt::format("--lr {}: wants a number above 0", *a.rate)).with_help("e.g. --lr 0.001");
  if (!(a.decay >= 0 && a.decay < 1e6)) throw Error(Code::bad_value, fmt::format("--weight-decay {}: wants a number of at least 0", a.decay)).with_help("e.g. --weight-decay 0.01");
  if (!(a.clip >= 0 && a.clip < 1e6)) throw Error(Code::bad_value, fmt::format("--clip-norm {}: wants a number of at least 0", a.clip)).with_help("e.g. --clip-norm 1.0; 0 clips nothing");
  o.optimizer.algorithm = parse_algorithm(a.algorithm);
  o.optimizer.schedule = parse_schedule(a.schedule);
  const std::unique_ptr<Device> device = a.device == "interpret" ? nullptr : open_device(a.device);
  if (!device && !a.passes.plan.empty()) throw Error(Code::bad_value, "the interpreter has no kernels: it takes no --plan").with_help("leave --plan out, or give --device cpu");
  const Dataset data = a.data.empty() ? load_digits() : load_mnist(a.data);
  o.model.inputs = data.features;
  o.model.classes = data.classes;
  o.model.hidden = {a.data.empty() ? 128 : 256};
  o.epochs = a.epochs ? a.epochs : a.data.empty() ? 30 : 3;
  o.batch = a.batch ? a.batch : a.data.empty() ? 64 : 128;
  o.max_steps = a.steps;
  o.optimizer.warmup = o.optimizer.schedule == Schedule::linear_warmup ? 100 : 0;
  o.optimizer.learning_rate = a.rate.value_or(3e-3);
  o.optimizer.weight_decay = a.decay;
  o.optimizer.clip_norm = a.clip;
  o.optimizer.loss_scale = a.passes.loss_scale();
  for (const std::string& text : a.settings) {
    const Setting s(text, {"hidden", "dropout"});
    if (s.key == "dropout") o.model.dropout = s.rate();
    else o.model.hidden = s.numbers();
  }
  want_affordable(o.model, o.batch);
  o.compile = a.passes.options(device ? device->target() : Target{});
  FILE* out = a.json.wants_stdout() ? stderr : stdout;
  fmt::print(out, "{}: {} training and {} test images, split seed {}; device {}\n", data.name, data.train_size(), data.test_size(), kSplitSeed, a.device);
  double accuracy = 0, seconds = 0, compile = 0, loss = 0;
  Json per_seed = Json::array(), losses = Json::array();
  for (int64_t k = 0; k < a.seeds; ++k) {
    o.seed = a.seed + static_cast<uint32_t>(k);
    const TrainResult r = train_mlp(data, device.get(), o, draw_progress);
    for (const std::string& note : r.notes) std::cerr << "quern: " << note << "\n";
    accuracy += r.test_accuracy / static_cast<double>(a.seeds);
    seconds += r.seconds;
    compile += r.compile_seconds;
    loss = r.losses.empty() ? 0 : r.losses.back();
    per_seed.push_back(r.test_accuracy);
    fmt::print(out, "seed {}: {} steps, loss {:.4f}, test accuracy {:.2f} %, {:.1f} s (compiled in {:.2f} s)\n", o.seed, r.losses.size(), loss, 100 * r.test_accuracy, r.seconds, r.compile_seconds);
    if (k == 0) {
      for (double l : r.losses) losses.push_back(l);
      if (a.losses)
        for (size_t s = 0; s < r.losses.size(); ++s) fmt::print(out, "step {} loss {:.9g}\n", s + 1, r.losses[s]);
      if (!a.checkpoint.empty()) {
        save_safetensors(a.checkpoint, r.states);
        fmt::print(out, "saved {}\n", a.checkpoint);
      }
    }
  }
  if (a.seeds > 1) fmt::print(out, "mean test accuracy of {} seeds: {:.2f} %\n", a.seeds, 100 * accuracy);
  a.json.write({{"schema", 1}, {"model", a.model}, {"data", data.name}, {"device", a.device}, {"seed", a.seed}, {"seeds", a.seeds}, {"test_accuracy", accuracy}, {"per_seed", per_seed}, {"loss", loss}, {"seconds", seconds}, {"compile_seconds", compile}, {"losses", losses}});
}

}  // namespace

void register_train(CLI::App& root) {
  auto a = std::make_shared<Arguments>();
  CLI::App* c = root.add_subcommand("train", "train a model");
  c->add_option("model", a->model, "mlp")->required();
  c->add_option("--set", a->settings, "hidden=512,256 or dropout=0.2")->allow_extra_args(false);
  c->add_option("--device", a->device, "interpret, cpu[:ARCH], cuda[:N] or null")->capture_default_str();
  c->add_option("--data", a->data, "a folder with MNIST in IDX form (.gz or not); without it, the digits that ship with Quern");
  c->add_option("--epochs", a->epochs, "default 30 (digits), 3 (MNIST)")->check(CLI::Range(1, 1000000));
  c->add_option("--batch", a->batch, "default 64 (digits), 128 (MNIST)")->check(CLI::Range(1, 1000000));
  c->add_option("--steps", a->steps, "stop after N steps")->check(CLI::Range(0, 1000000000));
  c->add_option("--lr", a->rate, "learning rate, above 0; default 0.003");
  c->add_option("--weight-decay", a->decay, "from 0; adamw: decoupled, others: added to the gradient")->capture_default_str();
  c->add_option("--clip-norm", a->clip, "gradients are scaled so that the norm of all of them together is at most this; 0: they are not")->capture_default_str();
  c->add_option("--optimizer", a->algorithm, "sgd, momentum, adam or adamw")->capture_default_str();
  c->add_option("--schedule", a->schedule, "constant, cosine or linear")->capture_default_str();
  c->add_option("--seed", a->seed, "of initial values, dropout and the order of batches")->capture_default_str();
  c->add_option("--seeds", a->seeds, "train with this many seeds and give the mean accuracy")->capture_default_str()->check(CLI::Range(1, 1000));
  add_output(*c, "--checkpoint", a->checkpoint, "save the first seed's states as safetensors");
  a->passes.add_to(*c);
  c->add_flag("--losses", a->losses, "print every step's loss");
  a->json.add_to(*c);
  c->footer("Examples:\n  quern train mlp --seeds 5\n  quern train mlp --data mnist/ --set hidden=512,256 --checkpoint mlp.safetensors");
  c->callback([a] { train(*a); });
}

}  // namespace quern
