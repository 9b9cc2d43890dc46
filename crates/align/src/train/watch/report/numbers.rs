//! Numbers as a person reads them, and where an axis has its marks.

/// Four significant digits; thousands are set apart, very small and very large numbers have an exponent.
pub(super) fn number(v: f64) -> String {
    if !v.is_finite() {
        return if v.is_nan() {
            "not a number"
        } else if v > 0.0 {
            "∞"
        } else {
            "−∞"
        }
        .to_owned();
    }
    let size = v.abs();
    if size != 0.0 && !(1e-3..1e9).contains(&size) {
        return exponent(v, 2);
    }
    let before = if size < 1.0 { 0 } else { size.log10() as usize + 1 };
    let text = fixed(v, 4usize.saturating_sub(before));
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn exponent(v: f64, digits: usize) -> String {
    let text = format!("{v:.digits$e}");
    let (mantissa, power) = text.split_once('e').unwrap_or((&text, "0"));
    let mantissa = match mantissa.contains('.') {
        true => mantissa.trim_end_matches('0').trim_end_matches('.'),
        false => mantissa,
    };
    format!("{mantissa}e{power}").replace('-', "−")
}

/// A fixed number of digits after the point.
fn fixed(v: f64, digits: usize) -> String {
    let text = format!("{:.digits$}", v.abs());
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let zero = text.bytes().all(|b| matches!(b, b'0' | b'.'));
    let sign = if v < 0.0 && !zero { "−" } else { "" };
    format!("{sign}{}{rest}", grouped(whole))
}

fn grouped(digits: &str) -> String {
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A count with its thousands set apart.
pub(super) fn count(n: u64) -> String {
    grouped(&n.to_string())
}

/// Hours and minutes, or what is smaller.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{} s", number((seconds.max(0.0) * 10.0).round() / 10.0)),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", count(whole / 3600), whole % 3600 / 60),
    }
}

/// An axis: which values it shows, and its marks.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    log: bool,
    /// Place between 0 and 1, and label.
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// An axis for values between `low` and `high`, wide enough to begin and end with a mark. Logarithmic only where everything is
    /// positive.
    pub(super) fn around(low: f64, high: f64, log: bool) -> Self {
        // three quarters of the range at most, so that differences do not overflow
        let (low, high) = (low.max(-1e308), high.min(1e308));
        if log && low > 0.0 {
            return Self::logarithmic(low, high);
        }
        let (low, high) = match low < high && high / 2.0 - low / 2.0 > 1e-9 * low.abs().max(high.abs()).max(1e-300) {
            true => (low, high),
            // a constant
            false => {
                let around = (low.abs() * 0.1).max(1e-6);
                (low - around, high + around)
            }
        };
        // nothing below zero is shown of what has nothing there
        let low = if low > 0.0 && low < 0.3 * high { 0.0 } else { low };
        let step = nice(high / 4.0 - low / 4.0);
        let (first, last) = ((low / step).floor(), (high / step).ceil());
        let mut axis = Self {
            low: first * step,
            high: last * step,
            log: false,
            ticks: Vec::new(),
        };
        axis.ticks = (0..=((last - first) as usize).min(20))
            .map(|i| (first + i as f64) * step)
            .map(|v| (axis.place(v), tick(v, step)))
            .collect();
        axis
    }

    /// An axis that ends where the values do, with marks inside.
    pub(super) fn between(low: f64, high: f64) -> Self {
        let mut axis = Self::around(low, high, false);
        let marks: Vec<(f64, String)> = axis
            .ticks
            .iter()
            .map(|(at, t)| (axis.low + at * (axis.high - axis.low), t.clone()))
            .collect();
        if low < high {
            (axis.low, axis.high) = (low, high);
        }
        let slack = (axis.high - axis.low) * 1e-9;
        let inside = marks
            .into_iter()
            .filter(|(v, _)| (axis.low - slack..=axis.high + slack).contains(v));
        axis.ticks = inside.map(|(v, text)| (axis.place(v), text)).collect();
        axis
    }

    /// An axis of steps that ends where the last one is; marks are whole numbers.
    pub(super) fn steps(low: u64, high: u64) -> Self {
        let low = if low <= (high / 10).max(1) { 0 } else { low };
        let high = high.max(low.saturating_add(1));
        let step = nice((high - low) as f64 / 4.5).max(1.0) as u64;
        let mut axis = Self {
            low: low as f64,
            high: high as f64,
            log: false,
            ticks: Vec::new(),
        };
        let marks = (low.div_ceil(step)..=high / step).take(20);
        axis.ticks = marks
            .map(|i| (axis.place((i * step) as f64), count(i * step)))
            .collect();
        axis
    }

    fn logarithmic(low: f64, high: f64) -> Self {
        let decades = high.log10() - low.log10();
        // as many marks in a decade as there is room for
        let digits: &[f64] = match decades {
            d if d < 1.0 => &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0],
            d if d < 2.5 => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        let every = (decades / 6.0).ceil().max(1.0) as i32;
        let from = (low.log10().floor() as i32).div_euclid(every) * every;
        let to = high.log10().ceil() as i32 + every;
        let marks = (from..=to).step_by(every as usize);
        let marks: Vec<f64> = marks
            .flat_map(|p| digits.iter().map(move |d| d * 10f64.powi(p)))
            .filter(|v| *v > 0.0 && v.is_finite())
            .collect();
        let below = marks.iter().rposition(|v| *v <= low).unwrap_or(0);
        let above = marks
            .iter()
            .position(|v| *v >= high)
            .unwrap_or(marks.len() - 1)
            .max(below + 1);
        let marks = &marks[below..=above.min(marks.len() - 1)];
        let mut axis = Self {
            low: marks[0].min(low),
            high: marks[marks.len() - 1].max(high),
            log: true,
            ticks: Vec::new(),
        };
        axis.ticks = marks.iter().map(|v| (axis.place(*v), number(*v))).collect();
        axis
    }

    /// Place of a value between 0 (the low end) and 1.
    pub(super) fn place(&self, v: f64) -> f64 {
        let place = if self.log {
            (v.log10() - self.low.log10()) / (self.high.log10() - self.low.log10())
        } else {
            (v / 2.0 - self.low / 2.0) / (self.high / 2.0 - self.low / 2.0)
        };
        if place.is_nan() { 0.0 } else { place.clamp(0.0, 1.0) }
    }

    /// The lowest and the highest value.
    pub(super) fn ends(&self) -> (f64, f64) {
        (self.low, self.high)
    }
}

/// 1, 2, 2.5 or 5 times a power of ten, at least `rough`.
fn nice(rough: f64) -> f64 {
    let power = 10f64.powf(rough.max(1e-300).log10().floor());
    let digits = [1.0, 2.0, 2.5, 5.0, 10.0];
    // nearly as large is as good
    power * digits.into_iter().find(|d| d * power >= rough * 0.999).unwrap_or(10.0)
}

/// A mark's label, as exact as the distance of marks asks for.
fn tick(v: f64, step: f64) -> String {
    let largest = v.abs().max(step);
    if largest >= 1e7 || step < 1e-3 {
        return if v.abs() < step / 2.0 {
            "0".to_owned()
        } else {
            exponent(v, 3)
        };
    }
    let digits = (0..6)
        .find(|&d| {
            let scaled = step * 10f64.powi(d);
            (scaled - scaled.round()).abs() < 1e-6 * scaled
        })
        .unwrap_or(6);
    fixed(v, digits as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        for (v, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (1234567.0, "1,234,567"),
            (-1234.5678, "−1,235"),
            (999.96, "1,000"),
            (3.24159, "3.242"),
            (0.25, "0.25"),
            (0.001234, "0.0012"),
            (0.0001234, "1.23e−4"),
            (2.5e12, "2.5e12"),
            (f64::NAN, "not a number"),
            (f64::NEG_INFINITY, "−∞"),
            (100.0, "100"),
        ] {
            assert_eq!(number(v), text);
        }
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!(duration(7.26), "7.3 s");
        assert_eq!(duration(125.0), "2 min 5 s");
        assert_eq!(duration(7380.0), "2 h 3 min");
        assert_eq!(duration(f64::NAN), "0 s");
    }

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, t)| t.as_str()).collect()
    }

    #[test]
    fn marks_are_round_and_hold_the_data() {
        assert_eq!(labels(&Axis::around(0.31, 5.2, false)), ["0", "2", "4", "6"]);
        assert_eq!(
            labels(&Axis::around(0.61, 0.68, false)),
            ["0.60", "0.62", "0.64", "0.66", "0.68"]
        );
        assert_eq!(
            labels(&Axis::around(-12.0, 3000.0, false)),
            ["−1,000", "0", "1,000", "2,000", "3,000"]
        );
        assert_eq!(
            labels(&Axis::around(0.02, 300.0, true)),
            ["0.01", "0.1", "1", "10", "100", "1,000"]
        );
        assert_eq!(
            labels(&Axis::around(2.2, 17.0, true)),
            ["2", "3", "4", "5", "7", "10", "15", "20"]
        );
        assert_eq!(
            labels(&Axis::steps(1, 100_000)),
            ["0", "25,000", "50,000", "75,000", "100,000"]
        );
        assert_eq!(labels(&Axis::steps(1, 3)), ["0", "1", "2", "3"]);
        assert_eq!(labels(&Axis::steps(5, 5)), ["5", "6"]);
    }

    #[test]
    fn any_range_has_an_axis() {
        let values = [
            f64::MIN,
            -1e300,
            -7.0,
            -1e-300,
            0.0,
            f64::MIN_POSITIVE,
            1e-12,
            0.1,
            1.0,
            1.0 + 1e-15,
            1e17,
            1e300,
            f64::MAX,
        ];
        for low in values {
            for high in values.into_iter().filter(|high| *high >= low) {
                for log in [false, true] {
                    let axis = Axis::around(low, high, log);
                    assert!((1..=22).contains(&axis.ticks.len()), "{low} {high} {log}: {axis:?}");
                    assert!(axis.ticks.iter().all(|(at, _)| (0.0..=1.0).contains(at)));
                    assert!(axis.place(low) <= axis.place(high), "{low} {high} {axis:?}");
                }
            }
        }
        for (low, high) in [(0, u64::MAX), (u64::MAX, u64::MAX), (0, 0), (7, 1000)] {
            assert!(!Axis::steps(low, high).ticks.is_empty(), "{low} {high}");
        }
    }
}
