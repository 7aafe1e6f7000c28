// Classifies pictures by an export to paddle, with paddle::jit: headers and libraries of the Python
// package. It has none of Paddle Inference's headers (3.3.1, 2.6.2), though its symbols.
#define PADDLE_NO_PYTHON
#include "paddle/extension.h"
#include "paddle/jit/all.h"
#include "paddle/phi/common/memory_utils.h"
#if __has_include("paddle/fluid/pir/dialect/operator/ir/op_dialect.h")  // Paddle 3
#include "paddle/fluid/pir/dialect/operator/ir/op_dialect.h"
#include "paddle/pir/include/core/builtin_dialect.h"
#include "paddle/pir/include/core/ir_context.h"
#define HAS_PIR
#endif

#include "classify.h"

namespace {

// What `import paddle` does in Python.
void set_up_paddle() {
  phi::memory_utils::InitDevices();
#ifdef HAS_PIR
  auto* context = pir::IrContext::Instance();
  context->GetOrRegisterDialect<pir::BuiltinDialect>();
  context->GetOrRegisterDialect<paddle::dialect::OperatorDialect>();
#endif
}

}  // namespace

int main(int argc, char** argv) {
  return classify(argc, argv, "paddle", [](const std::string& folder) -> Run {
    set_up_paddle();
    auto layer = paddle::jit::Load(folder + "/model", phi::CPUPlace());
    return [layer](std::vector<float>& input, int height, int width) mutable {
      paddle::Tensor image = paddle::empty({1, 3, height, width}, phi::DataType::FLOAT32);
      std::copy(input.begin(), input.end(), image.data<float>());
      const paddle::Tensor logits =
          layer.forward(std::vector<paddle::Tensor>{image}).at(0);  // [1, K]
      return std::vector<float>(logits.data<float>(), logits.data<float>() + logits.numel());
    };
  });
}
