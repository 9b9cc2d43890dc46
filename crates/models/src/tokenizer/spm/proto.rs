//! The parts of a SentencePiece model that encoding needs, read from its protocol buffer.
//!
//! Source: `sentencepiece_model.proto` of <https://github.com/google/sentencepiece>. Fields that are not known are passed over, as the format
//! prescribes; every length is checked against what is left of the file.

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: Kind,
}

/// How pieces are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Unigram,
    Bpe,
    /// Words or characters.
    Other(u64),
}

/// A model; what a file does not say has the defaults of SentencePiece.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Model {
    pub pieces: Vec<Piece>,
    pub algorithm: Algorithm,
    pub byte_fallback: bool,
    pub space_as_suffix: bool,
    /// What texts are replaced by, as a compiled table; empty for none.
    pub charsmap: Vec<u8>,
    pub space_first: bool,
    pub single_spaces: bool,
    pub escape_spaces: bool,
    pub bos: i64,
    pub eos: i64,
    pub pad: i64,
}

/// One field: its number and its value.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
    Fixed64,
}

/// The largest number of pieces; the largest known vocabulary has 262,144.
const MAX_PIECES: usize = 1 << 21;

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or("a number is cut off")?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number has more than 64 bits".into())
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], String> {
        let (taken, rest) = usize::try_from(len)
            .ok()
            .and_then(|len| self.0.split_at_checked(len))
            .ok_or_else(|| format!("{len} bytes are announced, but {} follow", self.0.len()))?;
        self.0 = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<Option<(u64, Value<'a>)>, String> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(len)?)
            }
            5 => {
                let mut four = [0; 4];
                four.copy_from_slice(self.take(4)?);
                Value::Fixed32(four)
            }
            other => return Err(format!("a field has the type {other}")),
        };
        Ok(Some((key >> 3, value)))
    }
}

impl Model {
    /// Reads a whole file.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut model = Self {
            pieces: Vec::new(),
            algorithm: Algorithm::Unigram,
            byte_fallback: false,
            space_as_suffix: false,
            charsmap: Vec::new(),
            space_first: true,
            single_spaces: true,
            escape_spaces: true,
            bos: 1,
            eos: 2,
            pad: -1,
        };
        let mut reader = Reader(bytes);
        while let Some(field) = reader.field()? {
            match field {
                (1, Value::Bytes(bytes)) => {
                    if model.pieces.len() == MAX_PIECES {
                        return Err(format!("it has more than {MAX_PIECES} pieces"));
                    }
                    model.pieces.push(piece(bytes)?);
                }
                (2, Value::Bytes(bytes)) => model.trainer(bytes)?,
                (3, Value::Bytes(bytes)) => model.normalizer(bytes)?,
                _ => {}
            }
        }
        if model.pieces.is_empty() {
            return Err("it has no pieces".into());
        }
        Ok(model)
    }

    fn trainer(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut reader = Reader(bytes);
        while let Some(field) = reader.field()? {
            match field {
                (3, Value::Number(kind)) => {
                    self.algorithm = match kind {
                        1 => Algorithm::Unigram,
                        2 => Algorithm::Bpe,
                        other => Algorithm::Other(other),
                    }
                }
                (24, Value::Number(flag)) => self.space_as_suffix = flag != 0,
                (35, Value::Number(flag)) => self.byte_fallback = flag != 0,
                // negative numbers are stored as their two's complement in 64 bits
                (41, Value::Number(id)) => self.bos = id as i64,
                (42, Value::Number(id)) => self.eos = id as i64,
                (43, Value::Number(id)) => self.pad = id as i64,
                _ => {}
            }
        }
        Ok(())
    }

    fn normalizer(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut reader = Reader(bytes);
        while let Some(field) = reader.field()? {
            match field {
                (2, Value::Bytes(map)) => self.charsmap = map.to_vec(),
                (3, Value::Number(flag)) => self.space_first = flag != 0,
                (4, Value::Number(flag)) => self.single_spaces = flag != 0,
                (5, Value::Number(flag)) => self.escape_spaces = flag != 0,
                _ => {}
            }
        }
        Ok(())
    }
}

fn piece(bytes: &[u8]) -> Result<Piece, String> {
    let mut piece = Piece {
        text: String::new(),
        score: 0.0,
        kind: Kind::Normal,
    };
    let mut reader = Reader(bytes);
    while let Some(field) = reader.field()? {
        match field {
            (1, Value::Bytes(text)) => {
                let text = std::str::from_utf8(text).map_err(|e| format!("a piece is not UTF-8 ({e})"))?;
                text.clone_into(&mut piece.text);
            }
            (2, Value::Fixed32(score)) => piece.score = f32::from_le_bytes(score),
            (3, Value::Number(kind)) => {
                piece.kind = match kind {
                    1 => Kind::Normal,
                    2 => Kind::Unknown,
                    3 => Kind::Control,
                    4 => Kind::UserDefined,
                    5 => Kind::Unused,
                    6 => Kind::Byte,
                    other => return Err(format!("a piece is of kind {other}")),
                }
            }
            _ => {}
        }
    }
    if piece.text.is_empty() || !piece.score.is_finite() {
        return Err(format!("the piece {:?} has the score {}", piece.text, piece.score));
    }
    Ok(piece)
}
