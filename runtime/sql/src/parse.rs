//! SQL text to one parsed query.
//!
//! Flink's spelling of window functions is not quite what the parser takes, so tokens are rewritten before;
//! every token keeps its place, and so errors point into the text that the user wrote.

use crate::error::{Planned, Position, Problem};
use datafusion_sql::sqlparser::ast::{Query, Statement};
use datafusion_sql::sqlparser::dialect::GenericDialect;
use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan, Tokenizer, Word};

/// Deeper nesting than this is refused: the planner below recurses.
const MAX_NESTING: usize = 50;

/// Of the operators that make expressions deep when they are chained.
const MAX_OPERATORS: usize = 1000;

/// The name of the pseudo function that stands for `PARTITION BY ..` inside a window function.
pub(crate) const PARTITION_BY: &str = "weir_partition_by";

pub(crate) fn parse_query(sql: &str) -> Planned<Query> {
    let dialect = GenericDialect {};
    let tokens = Tokenizer::new(&dialect, sql).tokenize_with_location().map_err(|error| {
        Problem::new(error.message, "close what is open: quotes, comments")
            .at(Some(Position { line: error.location.line, column: error.location.column }))
    })?;
    refuse_temporal_joins(&tokens)?;
    refuse_long_chains(&tokens)?;
    let mut parser = Parser::new(&dialect)
        .with_recursion_limit(MAX_NESTING)
        .with_tokens_with_locations(rewrite_window_functions(tokens));
    let mut statements = parser.parse_statements().map_err(|error| syntax_error(error).at(Some(end_of(sql))))?;
    let only_queries = "write one SELECT; sources and sinks stand in the StreamJob, not in SQL";
    match (statements.pop(), statements.is_empty()) {
        (None, _) => Err(Problem::new("the SQL is empty", only_queries)),
        (Some(_), false) => Err(Problem::new("more than one statement", only_queries)),
        (Some(Statement::Query(query)), true) => Ok(*query),
        (Some(statement), true) => {
            let text = statement.to_string();
            let verb = text.split_whitespace().next().unwrap_or("statement").to_uppercase();
            Err(Problem::new(format!("{verb} is not a query"), only_queries).at(Some(Position { line: 1, column: 1 })))
        }
    }
}

/// `FOR SYSTEM_TIME AS OF` doesn't parse, so it has no other chance to be refused by name.
fn refuse_temporal_joins(tokens: &[TokenWithSpan]) -> Planned<()> {
    let names_it = |token: &&TokenWithSpan| match &token.token {
        Token::Word(word) => word.quote_style.is_none() && word.value.eq_ignore_ascii_case("SYSTEM_TIME"),
        _ => false,
    };
    match tokens.iter().find(names_it) {
        None => Ok(()),
        Some(token) => Err(Problem::new(
            "FOR SYSTEM_TIME AS OF (a temporal join) is not supported",
            "use a regular join, or an interval join: a.ts BETWEEN b.ts AND b.ts + INTERVAL '1' HOUR",
        )
        .at_span(token.span)),
    }
}

/// `a = 1 OR a = 2 OR ..`: each operator is a level deeper, which the parser's own limit does not count.
fn refuse_long_chains(tokens: &[TokenWithSpan]) -> Planned<()> {
    let is_operator = |token: &&TokenWithSpan| match &token.token {
        Token::Word(word) => matches!(word.keyword, Keyword::AND | Keyword::OR | Keyword::UNION),
        Token::Plus | Token::Minus | Token::Mul | Token::Div | Token::Mod | Token::StringConcat => true,
        Token::Arrow | Token::LongArrow => true,
        _ => false,
    };
    match tokens.iter().filter(is_operator).nth(MAX_OPERATORS) {
        None => Ok(()),
        Some(token) => Err(Problem::new(
            format!("the query has more than {MAX_OPERATORS} operators"),
            "use IN (..) instead of many ORs, or split it into several transforms",
        )
        .at_span(token.span)),
    }
}

/// For mistakes that the parser finds at the end of the text.
fn end_of(sql: &str) -> Position {
    let sql = sql.trim_end();
    let line = sql.lines().count().max(1) as u64;
    let column = sql.lines().last().map_or(0, |last| last.chars().count()) as u64 + 1;
    Position { line, column }
}

/// `Expected: .., found: .. at Line: 1, Column: 8`: the parser has places only in its text.
fn syntax_error(error: ParserError) -> Problem {
    let message = match error {
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => message,
        ParserError::RecursionLimitExceeded => {
            return Problem::new(
                format!("the query nests deeper than {MAX_NESTING} levels"),
                "split it into several transforms",
            );
        }
    };
    let (reason, place) = match message.rsplit_once(" at Line: ") {
        Some((reason, place)) => (reason.to_owned(), Some(place)),
        None => (message.clone(), None),
    };
    let position = place.and_then(|place| {
        let (line, column) = place.split_once(", Column: ")?;
        Some(Position { line: line.trim().parse().ok()?, column: column.trim().parse().ok()? })
    });
    let reason = reason.strip_prefix("Expected: ").map(|rest| format!("expected {rest}")).unwrap_or(reason);
    let at_end = reason.ends_with("found: EOF");
    let remedy = if at_end { "the query ends too early: complete it" } else { "correct the SQL there" };
    Problem::new(reason, remedy).at(position)
}

/// `TUMBLE(TABLE t, ..)` becomes `TUMBLE(t, ..)`, and `SESSION(t PARTITION BY a, b, DESCRIPTOR(..), ..)` becomes
/// `SESSION(t, weir_partition_by(a, b), DESCRIPTOR(..), ..)`.
fn rewrite_window_functions(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let significant: Vec<TokenWithSpan> =
        tokens.into_iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    let mut out = Vec::with_capacity(significant.len());
    // For each open parenthesis, whether it is that of a window function.
    let mut windows: Vec<bool> = vec![];
    let mut partition_open = false;
    let mut tokens = significant.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let in_window = windows.last().copied().unwrap_or(false);
        match &token.token {
            Token::LParen => {
                windows.push(out.last().is_some_and(is_window_function));
            }
            Token::RParen => {
                if in_window && partition_open {
                    out.push(punctuation(Token::RParen, token.span));
                    partition_open = false;
                }
                windows.pop();
            }
            Token::Word(word) if in_window && word.keyword == Keyword::TABLE => {
                let names_a_table = tokens.peek().is_some_and(|next| matches!(next.token, Token::Word(_)));
                if names_a_table {
                    continue;
                }
            }
            Token::Word(word)
                if in_window
                    && word.keyword == Keyword::PARTITION
                    && tokens.peek().is_some_and(|next| is_keyword(next, Keyword::BY)) =>
            {
                tokens.next();
                out.push(punctuation(Token::Comma, token.span));
                out.push(punctuation(word_token(PARTITION_BY), token.span));
                out.push(punctuation(Token::LParen, token.span));
                partition_open = true;
                continue;
            }
            Token::Comma if in_window && partition_open => {
                let ends = tokens.peek().is_some_and(
                    |next| matches!(&next.token, Token::Word(word) if word.value.eq_ignore_ascii_case("DESCRIPTOR")),
                );
                if ends {
                    out.push(punctuation(Token::RParen, token.span));
                    partition_open = false;
                }
            }
            _ => {}
        }
        out.push(token);
    }
    out
}

fn is_window_function(token: &TokenWithSpan) -> bool {
    matches!(&token.token, Token::Word(word) if ["TUMBLE", "HOP", "SESSION"].iter().any(|name| word.value.eq_ignore_ascii_case(name)))
}

fn is_keyword(token: &TokenWithSpan, keyword: Keyword) -> bool {
    matches!(&token.token, Token::Word(word) if word.keyword == keyword)
}

fn word_token(text: &str) -> Token {
    Token::Word(Word { value: text.to_owned(), quote_style: None, keyword: Keyword::NoKeyword })
}

fn punctuation(token: Token, span: Span) -> TokenWithSpan {
    TokenWithSpan { token, span }
}
