//! Charts as SVG: bars, one a line, drawn from metrics alone.

use std::fmt::Write as _;

use super::metric::{Measurements, Metric};
use super::report::amount;
use super::targets::Standing;

const WIDTH: f64 = 760.0;
const LABELS: f64 = 260.0;
const VALUES: f64 = 120.0;
const LINE: f64 = 24.0;

/// One bar.
struct Bar {
    label: String,
    value: f64,
    text: String,
    ours: bool,
}

/// The charts of a run: a name for the file, and the picture. Charts without data are left out.
pub fn charts(measurements: &Measurements, targets: &[Standing]) -> Vec<(&'static str, String)> {
    let peers = |prefix: &str| {
        let with_peers = |m: &&Metric| m.name.starts_with(prefix) && !m.peers.is_empty();
        measurements
            .metrics()
            .filter(with_peers)
            .flat_map(beside_its_peers)
            .collect::<Vec<_>>()
    };
    let all = [
        (
            "targets",
            "Measured, times the specification's figure (logarithmic)",
            standing_bars(targets),
        ),
        (
            "limits",
            "Share of its limit, or of native",
            goodness_bars(measurements),
        ),
        (
            "simd",
            "One distance by instruction set, less is better",
            peers("simd."),
        ),
        ("pool", "A take and its give, less is better", peers("pool.")),
        ("fs", "Filesystem beside its peers", peers("fs.")),
        ("vectors", "Vectors beside their peers", peers("vectors.")),
    ];
    all.into_iter()
        .filter(|(_, _, bars)| !bars.is_empty())
        .map(|(name, title, bars)| (name, draw(title, &bars, name == "targets")))
        .collect()
}

fn standing_bars(targets: &[Standing]) -> Vec<Bar> {
    let bar = |standing: &Standing| {
        standing.times_floor.map(|times| Bar {
            label: standing.name.clone(),
            value: times,
            text: format!("{times:.2} x"),
            ours: standing.reached == Some(true),
        })
    };
    targets.iter().filter_map(bar).collect()
}

fn goodness_bars(measurements: &Measurements) -> Vec<Bar> {
    let bar = |metric: &Metric| {
        let reference = metric.reference.as_ref()?;
        let goodness = metric.goodness()?;
        Some(Bar {
            label: format!("{} / {}", metric.name, reference.what),
            value: goodness.min(4.0),
            text: format!("{goodness:.2}"),
            ours: true,
        })
    };
    measurements.metrics().filter_map(bar).collect()
}

fn beside_its_peers(metric: &Metric) -> Vec<Bar> {
    let own = Bar {
        label: metric.name.clone(),
        value: metric.value,
        text: amount(metric.value, &metric.unit),
        ours: true,
    };
    let peers = metric.peers.iter().map(|peer| Bar {
        label: peer.what.clone(),
        value: peer.value,
        text: amount(peer.value, &metric.unit),
        ours: false,
    });
    std::iter::once(own).chain(peers).collect()
}

/// Horizontal bars in the given order. Logarithmic ones begin at a tenth.
fn draw(title: &str, bars: &[Bar], logarithmic: bool) -> String {
    let scale = |value: f64| match logarithmic {
        true => (value.max(0.1) / 0.1).log10(),
        false => value.max(0.0),
    };
    let largest = bars
        .iter()
        .map(|bar| scale(bar.value))
        .fold(f64::MIN_POSITIVE, f64::max);
    let height = LINE * (bars.len() as f64 + 2.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"18\" font-weight=\"bold\">{}</text>\n",
        escape(title)
    );
    for (at, bar) in bars.iter().enumerate() {
        let y = LINE * (at as f64 + 1.4);
        let length = scale(bar.value) / largest * (WIDTH - LABELS - VALUES);
        let colour = if bar.ours { "#2b6cb0" } else { "#a0aec0" };
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LABELS}\" y=\"{y}\" width=\"{length:.1}\" height=\"{}\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{}</text>",
            LABELS - 6.0,
            y + 13.0,
            escape(&bar.label),
            LINE - 7.0,
            LABELS + length + 6.0,
            y + 13.0,
            escape(&bar.text),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::metric::tests::measured;
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values() {
        let run = measured(vec![
            Metric::lower("simd.l2_f32.128", "ns", 10.0, 0.0).peer("a<b", 20.0),
        ]);
        let charts = charts(&run, &[]);
        let (name, svg) = &charts[0];
        assert_eq!((*name, charts.len()), ("simd", 1));
        let full = WIDTH - LABELS - VALUES;
        assert!(
            svg.contains(&format!("width=\"{:.1}\"", full))
                && svg.contains(&format!("width=\"{:.1}\"", full / 2.0))
        );
        assert!(svg.contains("a&lt;b") && svg.contains("20.0 ns"));
        assert_eq!(svg.matches("<rect").count(), 3);
    }

    #[test]
    fn without_data_there_is_no_chart() {
        assert!(charts(&measured(vec![]), &[]).is_empty());
    }
}
