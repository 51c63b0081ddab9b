// Names of states that several layers know.
#pragma once

namespace quern {

/// f32[]: what a training step multiplies its loss by before it differentiates it (frontend/optim.h).
inline constexpr const char* kLossScaleState = "loss_scale";

}  // namespace quern
