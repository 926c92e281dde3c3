"""What must hold for a preset's stems to come back: the same model, provider and settings."""

from bridge.separation import Report
from presets.preset import Preset


def differences(preset: Preset, report: Report) -> list[str]:
    """Tell why stems may not be the ones the preset was saved with.

    Parameters
    ----------
    preset
        What was asked for.
    report
        What was computed.

    Returns
    -------
    A sentence for each difference of model and provider; none if both are the recorded ones.
    """
    told = []
    if preset.model_sha256 is not None and preset.model_sha256 != report.model_sha256:
        told.append(
            f"the preset was saved with another state of the model {preset.model} "
            f"({preset.model_sha256[:12]}, now {report.model_sha256[:12]}); stems will differ"
        )
    if preset.provider is not None and preset.provider != report.provider:
        told.append(
            f"the preset was saved on {preset.provider} and this is {report.provider}; "
            "stems may differ in the last bits"
        )
    return told


def pinned(preset: Preset, report: Report) -> Preset:
    """Return the preset with everything recorded that made the stems of a report."""
    from msgspec.structs import replace

    return replace(
        preset,
        model=preset.model or report.model,
        model_sha256=report.model_sha256,
        provider=report.provider,
        seed=report.seed,
        steps=report.steps,
        solver=report.solver,
        window_s=report.window_s,
        overlap_s=report.overlap_s,
        reconstruct=report.reconstruct,
        listen=report.listen,
        predict_spans=report.predict_spans,
        candidates=report.candidates,
        watermark=report.watermark,
    )
